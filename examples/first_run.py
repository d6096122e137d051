"""Start the embedded service, inspect two real models on it over HTTP, print both reports, and keep serving.

`make run` calls this. The models: a ten-layer sigmoid MLP on handwritten digits, sent as a spec, and a small character
transformer on text, uploaded as TorchScript.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import IO

import digits
import transformer

from gradinspect import Client, Report
from gradinspect.client import GradinspectError
from gradinspect.report.text.terminal import render_terminal

READY = re.compile(r"gradinspect is ready at (\S+)")


def main() -> int:
    """Run until Ctrl-C, or until both reports are printed."""
    options = _options()
    service = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gradinspect",
            "serve",
            "--port",
            str(options.port),
            "--data-dir",
            str(options.data_dir),
        ],
        env={"GRADINSPECT_LOG_LEVEL": "warning"} | os.environ,  # show the reports, not the requests
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches only this program, which then stops the service
    )
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        url = _wait_until_ready(service)
        with Client(url) as client, tempfile.TemporaryDirectory() as folder:
            _inspect_both(client, Path(folder), url)
        if not options.once:
            print(f"\nThe service keeps running at {url}. Ctrl-C stops it.", flush=True)
            return service.wait()
    except KeyboardInterrupt:
        print("\nStopping.", flush=True)
    except GradinspectError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    finally:
        _stop(service)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--data-dir", type=Path, default=Path(".data"))
    parser.add_argument("--once", action="store_true", help="stop after the two reports")
    return parser.parse_args()


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _wait_until_ready(service: subprocess.Popen[str]) -> str:
    """Return the URL that the started service prints once it is ready.

    A request to the port instead could reach, and write into, another service that already holds it.
    """
    assert service.stdout is not None
    for line in service.stdout:
        if match := READY.search(line):
            threading.Thread(target=_pass_on, args=(service.stdout,), daemon=True).start()
            return match[1]
    raise SystemExit(service.wait() or 1)  # the service has printed the reason


def _pass_on(output: IO[str]) -> None:
    for line in output:
        print(line, end="", flush=True)


def _inspect_both(client: Client, folder: Path, url: str) -> None:
    spec = json.loads(digits.SPEC.read_text(encoding="utf-8"))
    batch = digits.write_batch(folder / "digits.safetensors")
    print(f"\n{digits.SPEC.name}: ten layers with sigmoids, on 512 handwritten digits\n")
    mlp = client.inspect(
        spec, name="digits-mlp", data=batch, inputs=["x"], target="y", optimizer={"type": "sgd", "lr": 0.1}
    )
    _show(mlp)
    _try_prescription(mlp)
    model, batch = transformer.write_model_and_batch(folder)
    print(f"\n{model.name}: a TorchScript file, on 32 passages of text\n")
    language = client.inspect(
        model, name="character-transformer", data=batch, inputs=["x"], target="y", optimizer={"type": "adamw"}
    )
    _show(language)
    print("\nBoth as pages, and their list:")
    for page in (f"inspections/{mlp.inspection}", f"inspections/{language.inspection}", ""):
        print(f"  {url}/{page}", flush=True)


def _try_prescription(report: Report) -> None:
    """Run the prescription on digits that the inspection did not see, and print the accuracy before and after."""
    found = report.prescription
    if found is None or found.code is None:
        print(f"No prescription to run: {found.reason if found is not None else 'no trial was made'}.")
        return
    print("\nThe prescription, run on all digits for 8 epochs; accuracy on 450 held-out digits:")
    print(f"  as it was     {digits.held_out_accuracy(None):.3f}")
    print(f"  with the code {digits.held_out_accuracy(found.code):.3f}", flush=True)


def _show(report: Report) -> None:
    width = shutil.get_terminal_size((110, 40)).columns
    print(render_terminal(report, width=width, color=sys.stdout.isatty()), flush=True)


def _stop(service: subprocess.Popen[str]) -> None:
    if service.poll() is None:
        service.terminate()
        try:
            service.wait(timeout=30)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


if __name__ == "__main__":
    sys.exit(main())
