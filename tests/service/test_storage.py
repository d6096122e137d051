"""The store: files are complete or absent, and failures leave none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from gradinspect.contracts.problems import ProblemError
from service.store import report_files, stream_writing
from service.store.local import LocalStore
from service.store.storage import Store
from tests.support.specimens import has_bytes, make_report, store_bytes

TENANT = "default"
INSPECTION = "insp_01a20d27-c7a0-7106-b667-5a7c607b3ffc"
BYTES = bytes(range(256)) * 9000  # 2.2 MiB: more than two pieces
DIGEST = f"sha256:{hashlib.sha256(BYTES).hexdigest()}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def pieces(data: bytes = BYTES, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [1, 1000, 2**20, len(BYTES)])
def test_bytes_received_in_pieces_of_any_size_are_stored_unchanged(store: Store, size: int) -> None:
    data = BYTES if size > 1 else BYTES[:5000]
    stored = store_bytes(store, pieces(data, size), tenant=TENANT, limit=len(data))
    assert stored.size_bytes == len(data)
    with store.artifacts.open(stored.digest, tenant=TENANT) as file:
        assert file.read() == data


@pytest.mark.parametrize("refused", [None, "posix_fallocate", "fcntl"])
def test_a_long_stream_of_odd_length_is_stored_unchanged_on_any_file_system(
    store: Store, monkeypatch: pytest.MonkeyPatch, refused: str | None
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    if refused == "posix_fallocate":
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    elif refused == "fcntl":
        monkeypatch.setattr("service.store.stream_writing.fcntl.fcntl", refuse)
    data = BYTES * 9 + b"odd"
    assert len(data) > 2 * stream_writing.CACHED_BYTES
    stored = store_bytes(store, pieces(data, 99_991), tenant=TENANT, limit=len(data))
    assert stored.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    with store.artifacts.open(stored.digest, tenant=TENANT) as file:
        assert file.read() == data


def test_an_empty_upload_is_stored(store: Store) -> None:
    stored = store_bytes(store, [], tenant=TENANT, limit=1, expected_length=0)
    assert stored.digest == f"sha256:{hashlib.sha256().hexdigest()}"
    assert stored.size_bytes == 0
    assert has_bytes(store, stored.digest)


def test_the_same_bytes_twice_are_one_file(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        assert store_bytes(store, pieces(), tenant=TENANT, limit=len(BYTES), expected_digest=DIGEST).digest == DIGEST
    assert len(files(tmp_path)) == 1


def test_tenants_do_not_see_each_others_bytes(store: Store) -> None:
    store_bytes(store, pieces(), tenant="ours", limit=len(BYTES))
    with pytest.raises(ProblemError) as problem:
        store.artifacts.open(DIGEST, tenant="theirs")
    assert problem.value.code == "not_found"
    assert not store.artifacts.delete(DIGEST, tenant="theirs")
    assert store.artifacts.delete(DIGEST, tenant="ours")


@pytest.mark.parametrize(
    ("promise", "code"),
    [
        ({"limit": len(BYTES) - 1}, "too_large"),
        ({"limit": len(BYTES), "expected_length": len(BYTES) + 1}, "short_body"),
        ({"limit": len(BYTES), "expected_length": len(BYTES) - 1}, "short_body"),
        ({"limit": len(BYTES), "expected_digest": f"sha256:{'0' * 64}"}, "digest_mismatch"),
    ],
)
def test_an_upload_that_differs_from_its_declaration_leaves_no_file(
    store: Store, tmp_path: Path, promise: dict[str, object], code: str
) -> None:
    with pytest.raises(ProblemError) as problem:
        store_bytes(store, pieces(), tenant=TENANT, **promise)  # type: ignore[arg-type]  # by name
    assert problem.value.code == code
    assert files(tmp_path) == []


def test_an_interrupted_upload_leaves_no_file(store: Store, tmp_path: Path) -> None:
    def cut() -> Iterator[bytes]:
        yield BYTES
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store_bytes(store, cut(), tenant=TENANT, limit=2 * len(BYTES))
    assert files(tmp_path) == []


def test_an_upload_that_was_not_kept_leaves_no_file(store: Store, tmp_path: Path) -> None:
    with store.artifacts.receive(pieces(), tenant=TENANT, limit=len(BYTES)) as upload:
        with upload.open() as file:
            assert file.read() == BYTES
        assert upload.digest == DIGEST
    assert files(tmp_path) == []


def test_a_write_that_is_cut_short_fails_and_leaves_no_file(store: Store, tmp_path: Path) -> None:
    program = f"""
import resource, signal, sys
from pathlib import Path
from gradinspect.contracts.problems import ProblemError
from service.store.local import LocalStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # beyond the limit a write fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20 + 2**19, 2**20 + 2**19))
try:
    with LocalStore(Path({str(tmp_path / "store")!r})).artifacts.receive(
        iter([bytes(2**20)] * 3), tenant="t", limit=2**30
    ) as upload:
        upload.keep()
except OSError as error:
    print(error.errno)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(run.stdout) == errno.EFBIG, "a write that was cut short is tried again and then fails"
    assert files(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("step", ["write_all", "mkstemp", "fsync", "replace"])
def test_no_space_at_any_step_is_disk_full_and_leaves_no_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    match step:
        case "write_all":
            monkeypatch.setattr("service.store.stream_writing.write_all", refuse)
        case "mkstemp":
            monkeypatch.setattr(tempfile, "mkstemp", refuse)
        case "fsync":
            monkeypatch.setattr(os, "fsync", refuse)
        case "replace":
            monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ProblemError) as problem:
        store_bytes(store, pieces(), tenant=TENANT, limit=len(BYTES))
    assert problem.value.code == "disk_full"
    assert files(tmp_path) == []


def test_only_digests_are_accepted_as_artifact_names(store: Store) -> None:
    for name in ("sha256:" + "A" * 64, "../../etc/passwd", "sha256:../" + "0" * 61, ""):
        with pytest.raises(ProblemError) as problem:
            store.artifacts.open(name, tenant=TENANT)
        assert problem.value.code == "not_found"
    with pytest.raises(ValueError, match="tenant"):
        store.artifacts.open(DIGEST, tenant="../x")


def test_the_sweep_removes_old_unfinished_uploads_and_no_current_one(store: Store, tmp_path: Path) -> None:
    with store.artifacts.receive(pieces(), tenant=TENANT, limit=len(BYTES)):
        assert store.artifacts.sweep_incoming() == 0
        for path in files(tmp_path):
            os.utime(path, (0, 0))
        assert store.artifacts.sweep_incoming() == 1


def test_stored_artifacts_are_listed_from_an_age_on(store: Store) -> None:
    store_bytes(store, pieces(), tenant=TENANT, limit=len(BYTES))
    assert list(store.artifacts.listed(older_than_seconds=0)) == [(TENANT, DIGEST)]
    assert list(store.artifacts.listed(older_than_seconds=60)) == []


def test_the_memory_of_an_upload_does_not_grow_with_its_size(store: Store) -> None:
    def many() -> Iterator[bytes]:
        piece = bytes(2**18)
        for _ in range(400):  # 100 MiB
            yield piece

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store_bytes(store, many(), tenant=TENANT, limit=2**30)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 16 * 1024


def test_a_report_is_stored_unchanged(store: Store) -> None:
    key = store.reports.put(make_report(), inspection_id=INSPECTION, attempt=2)
    assert key == f"{INSPECTION}.2"
    assert store.reports.get(key) == make_report()
    assert store.reports.read(key) == report_files.report_json(make_report())
    assert list(store.reports.listed(older_than_seconds=0)) == [key]
    assert store.reports.delete(key)
    assert not store.reports.delete(key)
    with pytest.raises(ProblemError) as problem:
        store.reports.get(key)
    assert problem.value.code == "not_found"


def test_a_section_that_was_not_requested_is_absent_and_a_null_number_stays() -> None:
    text = json.loads(report_files.report_json(make_report()))
    assert "noise" not in text
    assert text["inspection"] is None
    assert text["summary"]["total_grad_norm"] is None


def test_reports_of_two_attempts_are_two_files(store: Store) -> None:
    keys = [store.reports.put(make_report(), inspection_id=INSPECTION, attempt=attempt) for attempt in (1, 2)]
    store.reports.delete(keys[0])
    assert store.reports.get(keys[1]) == make_report()


def test_a_report_that_decompresses_beyond_the_bound_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store.reports.put(make_report(), inspection_id=INSPECTION, attempt=1)
    monkeypatch.setattr(report_files, "MAX_REPORT_BYTES", 100)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        store.reports.read(key)


def test_a_truncated_report_is_refused(store: Store, tmp_path: Path) -> None:
    key = store.reports.put(make_report(), inspection_id=INSPECTION, attempt=1)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cut off"):
        store.reports.read(key)


def test_only_report_keys_are_accepted(store: Store) -> None:
    for key in ("../../x.1", f"{INSPECTION}", f"{INSPECTION}.x"):
        with pytest.raises(ValueError, match="not the key"):
            store.reports.read(key)
