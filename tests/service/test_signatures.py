"""Signatures of texts that callers carry."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.settings import Settings
from service.signatures import FILE_NAME, Signer

SECRET = "correct horse battery staple"


def signer(folder: Path, **fields: str) -> Signer:
    return Signer(Settings.from_environment({}, data_dir=folder, **fields))


def test_a_signature_is_valid_for_its_text_and_purpose_only(tmp_path: Path) -> None:
    one = signer(tmp_path)
    signature = one.sign("session", "a")
    assert one.is_valid("session", "a", signature)
    assert not one.is_valid("session", "b", signature)
    assert not one.is_valid("cursor", "a", signature)
    for wrong in ("", "é", signature[:-1], signature + "A"):
        assert not one.is_valid("session", "a", wrong)


def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        signatures = set(pool.map(lambda _: signer(tmp_path / "new").sign("session", "a"), range(32)))
    assert len(signatures) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE_NAME]


def test_the_file_of_the_key_is_closed_to_other_users(tmp_path: Path) -> None:
    signer(tmp_path).sign("session", "a")
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_configured_key_needs_no_file_and_is_not_shown(tmp_path: Path) -> None:
    settings = Settings.from_environment({}, data_dir=tmp_path, secret_key=SECRET)
    assert Signer(settings).sign("session", "a") == signer(tmp_path / "other", secret_key=SECRET).sign("session", "a")
    assert not (tmp_path / FILE_NAME).exists()
    assert SECRET not in repr(settings)


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"short")
    with pytest.raises(ValueError, match="remove it"):
        signer(tmp_path).sign("session", "a")
