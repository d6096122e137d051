"""Start the embedded service, inspect two real models on it over HTTP, print both reports, and go on serving.

`make run` calls this. The models: a ten-layer sigmoid MLP on handwritten digits, sent as a spec, and a small character
transformer on text, uploaded as TorchScript.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import digits
import httpx
import transformer

from gradinspect import Client, Report
from gradinspect.client import GradinspectError
from gradinspect.report.text.terminal import render_terminal

START_SECONDS = 120


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
        env={"GRADINSPECT_LOG_LEVEL": "warning"} | os.environ,  # the reports are what this is about
        start_new_session=True,  # Ctrl-C reaches this program, which tells the service once
    )
    signal.signal(signal.SIGTERM, _as_interrupt)
    url = f"http://127.0.0.1:{options.port}"
    try:
        with Client(url) as client, tempfile.TemporaryDirectory() as folder:
            _wait_until_ready(url, service)
            _inspect_both(client, Path(folder), url)
        if not options.once:
            print(f"\nThe service goes on at {url}. Ctrl-C stops it.", flush=True)
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


def _wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise SystemExit(service.returncode or 1)  # it has said why
        try:
            if httpx.get(f"{url}/readyz", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"the service did not get ready within {START_SECONDS} seconds; its log is in the data directory")


def _inspect_both(client: Client, folder: Path, url: str) -> None:
    spec = json.loads(digits.SPEC.read_text(encoding="utf-8"))
    batch = digits.write_batch(folder / "digits.safetensors")
    print(f"\n{digits.SPEC.name}: ten layers with sigmoids, on 512 handwritten digits\n")
    mlp = client.inspect(
        spec, name="digits-mlp", data=batch, inputs=["x"], target="y", optimizer={"type": "sgd", "lr": 0.1}
    )
    _show(mlp)
    model, batch = transformer.write_model_and_batch(folder)
    print(f"\n{model.name}: a TorchScript file, on 32 passages of text\n")
    language = client.inspect(
        model, name="character-transformer", data=batch, inputs=["x"], target="y", optimizer={"type": "adamw"}
    )
    _show(language)
    print("\nBoth as pages, and their list:")
    for page in (f"inspections/{mlp.inspection}", f"inspections/{language.inspection}", ""):
        print(f"  {url}/{page}", flush=True)


def _show(report: Report) -> None:
    width = shutil.get_terminal_size((110, 40)).columns
    print(render_terminal(report, width=width, color=sys.stdout.isatty()), flush=True)


def _stop(service: subprocess.Popen[bytes]) -> None:
    if service.poll() is None:
        service.terminate()
        try:
            service.wait(timeout=30)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


if __name__ == "__main__":
    sys.exit(main())
