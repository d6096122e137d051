"""Cursors: which keys they may hold, and which changes they outlive."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gradinspect.contracts.problems import ProblemError
from service.db.engine import Database
from service.db.lists import cursors, queries
from service.db.lists.queries import InspectionListQuery
from service.db.tables import InspectionRecord
from service.store.secret_file import derived_key, installation_secret
from tests.support.specimens import TENANT, submit

LIST = cursors.Binding("list", b"key")


@pytest.mark.parametrize("key", [2**63 - 1, 1 - 2**63, 0, 0.5, "text"])
def test_keys_come_back_as_they_were(key: float | str) -> None:
    assert cursors.decode(cursors.encode(LIST, [key]), LIST, [(int, float, str)]) == [key]


@pytest.mark.parametrize("key", [2**63, -(2**63), True])
def test_integers_that_no_database_holds_are_refused(key: int) -> None:
    with pytest.raises(ProblemError):
        cursors.decode(cursors.encode(LIST, [key]), LIST, [(int,)])


def test_a_cursor_stays_valid_when_a_list_gains_a_filter(database: Database) -> None:
    for _ in range(2):
        submit(database)
    with database.read() as session:
        cursor = queries.inspections(session, InspectionListQuery(limit=1), tenant=TENANT).next_cursor
    assert cursor is not None
    listed = json.loads(urlsafe_b64decode(cursor + "===")[cursors.SIGNATURE_LETTERS :])[0]
    with database.read() as session:  # filters left out are not bound
        assert listed == cursors.binding(session, InspectionRecord.__tablename__, TENANT, {}).listed


@pytest.mark.parametrize(
    "keys",
    [["\ud800"], ["a\x00"], ["0001-01-01T00:00:00+23:59"], ["9999-12-31T23:59:59.999999-23:59"], ["12:00"], [{}], []],
)
def test_keys_that_no_page_ends_with_are_refused_even_when_they_are_signed(keys: list[Any]) -> None:
    kinds: list[tuple[type, ...]] = [(datetime,)] if "T" in str(keys) or "12" in str(keys) else [(str,)]
    with pytest.raises(ProblemError) as caught:
        cursors.decode(cursors.encode(LIST, keys), LIST, kinds)
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("other", [cursors.Binding("list", b"other key"), cursors.Binding("other list", b"key")])
def test_a_cursor_of_another_installation_or_list_is_refused(other: cursors.Binding) -> None:
    with pytest.raises(ProblemError, match="no cursor of this list"):
        cursors.decode(cursors.encode(other, ["text"]), LIST, [(str,)])


def test_a_changed_cursor_is_refused() -> None:
    cursor = cursors.encode(LIST, ["text"])
    signed = urlsafe_b64decode(cursor + "===")
    changed = urlsafe_b64encode(signed.replace(b"text", b"next")).decode().rstrip("=")
    assert cursors.decode(cursor, LIST, [(str,)]) == ["text"]
    with pytest.raises(ProblemError):
        cursors.decode(changed, LIST, [(str,)])


def test_every_process_of_an_installation_has_one_secret_that_only_its_owner_reads(tmp_path: Path) -> None:
    secret = installation_secret(tmp_path)
    assert len(secret) == 32
    assert installation_secret(tmp_path) == secret
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert derived_key(secret, "cursors") != derived_key(secret, "pages")
