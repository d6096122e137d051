"""openapi.json, made from the application: `python -m service.openapi_document > openapi.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from service.app import create_app
from service.settings import Settings


def document() -> str:
    """Return the text of the committed `openapi.json`."""
    with TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder)))
        return json.dumps(app.spec, indent=1, ensure_ascii=False, sort_keys=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
