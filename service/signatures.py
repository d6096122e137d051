"""Signatures on texts that callers carry and send back: sessions, cursors, tokens of forms.

All processes of a service sign with one key: the setting `secret_key`, or a random file in the data directory.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from base64 import urlsafe_b64encode
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from service.settings import Settings

KEY_BYTES = 32
FILE_NAME = "secret.key"


class Signer:
    """Signs and checks texts; the key is read at the first use.

    Args:
        settings: of this process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def sign(self, purpose: str, text: str) -> str:
        """Return the signature of a text, 43 characters of URL-safe base64.

        Args:
            purpose: names the kind of text; a signature for one purpose is invalid for every other.
            text: what is signed.
        """
        message = f"{purpose}\0{text}".encode()
        return urlsafe_b64encode(hmac.digest(self._key, message, "sha256")).decode().rstrip("=")

    def is_valid(self, purpose: str, text: str, signature: str) -> bool:
        """Check a signature in a time that does not depend on where it is wrong."""
        return hmac.compare_digest(self.sign(purpose, text).encode(), signature.encode("utf-8", "replace"))

    @cached_property
    def _key(self) -> bytes:
        configured = self._settings.secret_key
        if configured:
            return hashlib.sha256(configured.encode()).digest()
        return _key_file(self._settings.data_dir)


def _key_file(folder: Path) -> bytes:
    """Read the key in a folder; make one if there is none. Of processes that start together, one makes it."""
    path = folder / FILE_NAME
    with suppress(FileNotFoundError):
        return _whole_key(path)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=folder)  # readable by this user alone
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with suppress(FileExistsError):
            os.link(name, path)  # fails if another process was first, and never shows a part of a key
    finally:
        Path(name).unlink()
    return _whole_key(path)


def _whole_key(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} does not have the {KEY_BYTES} bytes of a key; remove it, and a new one is made")
    return key
