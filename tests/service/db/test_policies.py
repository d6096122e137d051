"""Named policies: the default is built in, the newest version of a name counts."""

from __future__ import annotations

import pytest

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from service.db import policies
from service.db.engine import Database
from tests.support.specimens import TENANT


def policy(name: str = "strict", version: int = 1, **rules: object) -> Policy:
    return from_python(Policy, {"name": name, "version": version, "rules": rules})


def insert(database: Database, document: Policy, tenant: str = TENANT) -> str:
    with database.write() as session:
        return policies.insert(session, document, tenant=tenant).id


def test_a_stored_policy_equals_the_submitted_one(database: Database) -> None:
    # An omitted level keeps its default and null switches it off, so an omitted level must not be read back as null.
    said = policy(vanishing_signal={"warn": 0.1}, exploding_signal={"fail": None})
    policy_id = insert(database, said)
    with database.read() as session:
        for reference in (policy_id, "strict"):
            found = policies.resolve(session, reference, tenant=TENANT)
            assert found == said
            assert found.rules["vanishing_signal"].model_fields_set == {"warn"}
            assert found.rules["exploding_signal"].model_fields_set == {"fail"}


def test_the_default_policy_is_built_in_and_its_name_is_taken(database: Database) -> None:
    with database.read() as session:
        assert policies.resolve(session, "default", tenant=TENANT) == DEFAULT_POLICY
    with pytest.raises(ProblemError) as problem:
        insert(database, policy(name="default"))
    assert problem.value.code == "conflict"


def test_the_newest_version_of_a_name_counts_and_each_exists_once(database: Database) -> None:
    for version in (1, 3, 2):
        insert(database, policy(version=version))
    with database.read() as session:
        assert policies.resolve(session, "strict", tenant=TENANT).version == 3
        assert [record.version for record in policies.list_all(session, tenant=TENANT)] == [3, 2, 1]
    with pytest.raises(ProblemError) as problem:
        insert(database, policy(version=3))
    assert problem.value.code == "conflict"
    insert(database, policy(version=3), tenant="other")


@pytest.mark.parametrize("reference", ["nobody's", "pol_00000000-0000-7000-8000-000000000000", "\x00"])
def test_an_unknown_policy_is_not_found(database: Database, reference: str) -> None:
    with database.read() as session, pytest.raises(ProblemError) as problem:
        policies.resolve(session, reference, tenant=TENANT)
    assert problem.value.code == "not_found"


def test_the_policy_of_another_tenant_is_not_found(database: Database) -> None:
    policy_id = insert(database, policy(), tenant="theirs")
    with database.write() as session:
        with pytest.raises(ProblemError):
            policies.get(session, policy_id, tenant="ours")
        with pytest.raises(ProblemError):
            policies.delete(session, policy_id, tenant="ours")
        policies.delete(session, policy_id, tenant="theirs")
    with database.read() as session, pytest.raises(ProblemError):
        policies.get(session, policy_id, tenant="theirs")
