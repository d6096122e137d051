"""`python -m gradinspect`: the same as the command `gradinspect`."""

from __future__ import annotations

import sys
from pathlib import Path

# `-m` puts the working directory first on the path, where a user's own `service` or `workers` would hide ours.
if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from gradinspect.cli import main  # after the change of sys.path

main()
