"""`python -m gradinspect` is the command `gradinspect`."""

from __future__ import annotations

from gradinspect.cli import main

main()
