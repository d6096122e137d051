"""Cursors: which keys they may hold, and which changes they outlive."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode

import pytest

from gradinspect.contracts.problems import ProblemError
from service.db.engine import Database
from service.db.lists import cursors, queries
from service.db.lists.queries import InspectionListQuery
from service.db.tables import InspectionRecord
from tests.support.specimens import TENANT, submit


@pytest.mark.parametrize("key", [2**63 - 1, 1 - 2**63, 0, 0.5, "text"])
def test_keys_come_back_as_they_were(key: float | str) -> None:
    assert cursors.decode(cursors.encode("list", [key]), "list", [(int, float, str)]) == [key]


@pytest.mark.parametrize("key", [2**63, -(2**63), True])
def test_integers_that_no_database_holds_are_refused(key: int) -> None:
    with pytest.raises(ProblemError):
        cursors.decode(cursors.encode("list", [key]), "list", [(int,)])


def test_a_cursor_stays_valid_when_a_list_gains_a_filter(database: Database) -> None:
    for _ in range(2):
        submit(database)
    with database.read() as session:
        cursor = queries.inspections(session, InspectionListQuery(limit=1), tenant=TENANT).next_cursor
    assert cursor is not None
    bound_to = json.loads(urlsafe_b64decode(cursor + "==="))[0]
    assert bound_to == cursors.binding(InspectionRecord.__tablename__, TENANT, {})  # filters left out are not bound
