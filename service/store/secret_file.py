"""The secret of an installation: 32 random bytes in a file that only its owner can read, made once.

What the service signs, it signs with keys derived from this secret, so that all processes and restarts accept it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from contextlib import suppress
from pathlib import Path

from service.store.durable_files import new_file, write_all

NAME = "secret"
SECRET_BYTES = 32


def installation_secret(directory: Path) -> bytes:
    """Read the secret in a folder, or make it; of several processes that make it, one wins.

    Raises:
        OSError: the folder cannot be written.
        ProblemError: `disk_full`.
    """
    path = directory / NAME
    with suppress(FileNotFoundError):
        return path.read_bytes()
    with new_file(directory) as (temporary, file):  # with mode 0600
        write_all(file, os.urandom(SECRET_BYTES))
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
    return path.read_bytes()


def derived_key(secret: bytes, purpose: str) -> bytes:
    """Derive the key of one purpose, which tells nothing of the keys of others."""
    return hmac.new(secret, purpose.encode(), hashlib.sha256).digest()
