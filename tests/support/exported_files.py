"""Exported programs for tests: the files of `networks.exported_models`, and altered copies of them."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from gradinspect.engine.network.exported.model import ExportedModel
from gradinspect.intake.exported import read_program
from tests.support.networks.torchscript_files import archive, records_of

Json = Any
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


@cache
def exported_files() -> dict[str, bytes]:
    """Export all networks, in a process apart, once for each test process."""
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "tests.support.networks.exported_models", folder]
        subprocess.run(program, check=True, cwd=Path(__file__).parents[2], timeout=280)
        return {path.stem: path.read_bytes() for path in Path(folder).iterdir()}


def model_of(data: bytes) -> ExportedModel:
    """Return the model of a file."""
    return ExportedModel(read_program(io.BytesIO(data)), data)


def altered(data: bytes, change: Callable[[Json], None], *, path: str = MODEL) -> bytes:
    """Return a copy of a file with one of its JSON documents changed."""
    records = records_of(data)
    document = copy.deepcopy(json.loads(records[path]))
    change(document)
    return archive({**records, path: json.dumps(document).encode()})


def with_records(data: bytes, **changes: bytes | None) -> bytes:
    """Return a copy of a file with entries added, replaced or, for None, left out; `__` stands for a slash."""
    records: dict[str, bytes] = records_of(data)
    for name, content in changes.items():
        path = name.replace("__", "/")
        if content is None:
            del records[path]
        else:
            records[path] = content
    return archive(records)


def graph_of(document: Json) -> Json:
    """Return the graph in a model's document."""
    return document["graph_module"]["graph"]


def node_of(document: Json, target: str) -> Json:
    """Return the first node of an operator."""
    return next(node for node in graph_of(document)["nodes"] if node["target"] == target)
