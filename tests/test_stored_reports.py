"""Reports of past releases can still be read, judged and compared, from files and from a migrated database."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from gradinspect import __version__
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import Policy, RulePolicy
from gradinspect.report.ci.junit import render_junit
from gradinspect.report.ci.sarif import render_sarif
from gradinspect.report.words.headline import headline
from gradinspect.rules import DEFAULT_POLICY, RULES, compare, rejudge
from service.db import migrate, policies
from service.db.engine import Database
from service.db.lists import queries, row_queries
from service.db.lists.queries import InspectionListQuery
from service.db.results import writing as results
from service.query_strings import validate_query
from service.store.report_files import ReportFiles

STORED = Path(__file__).parent / "fixtures" / "reports"
RELEASES = sorted(path.name for path in STORED.iterdir() if path.is_dir() and path.name != "__pycache__")
FILES = sorted(
    path.relative_to(STORED).as_posix() for path in STORED.glob("*/*.json.gz") if path.stem != "database.json"
)
STRICT = Policy(name="strict", rules={"vanishing_signal": RulePolicy(warn=1e9, fail=1e8)})
TENANT = "default"


@cache
def stored(name: str) -> Report:
    """Return a report from its file, checked by the contract."""
    return Report.model_validate_json(gzip.decompress((STORED / name).read_bytes()))


def rules(report: Report) -> list[tuple[str, str]]:
    return [(finding.rule, finding.severity) for finding in report.findings]


def test_this_release_has_its_reports() -> None:
    assert __version__ in RELEASES
    verdicts = {stored(name).verdict for name in FILES if name.startswith(f"{__version__}/")}
    assert verdicts == {"pass", "warn", "fail", "undetermined"}


@pytest.mark.parametrize("name", FILES)
def test_a_stored_report_is_read_by_the_store(name: str, tmp_path: Path) -> None:
    key = "insp_00000000-0000-7000-8000-0000000000ab.1"
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / f"{key}.json.gz").write_bytes((STORED / name).read_bytes())
    assert ReportFiles(tmp_path, tmp_path).get(key) == stored(name)


@pytest.mark.parametrize("name", FILES)
def test_judging_a_stored_report_again_gives_the_same_findings(name: str) -> None:
    report = stored(name)
    again = rejudge(report, DEFAULT_POLICY)
    # Release 0.1.0 raised an alarm about uneven gradients without a declared optimizer.
    expected = [
        (rule, "info" if rule == "uneven_gradients" and report.optimizer is None else severity)
        for rule, severity in rules(report)
    ]
    assert again.verdict == report.verdict
    assert sorted(rules(again)) == sorted(expected)
    assert headline(again) == headline(report)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("0.1.0/")])
def test_a_report_of_the_first_release_records_no_outcomes_until_it_is_judged_again(name: str) -> None:
    report = stored(name)
    assert (report.schema_version, report.rules) == (1, ())
    again = rejudge(report, DEFAULT_POLICY)
    assert again.schema_version == 2
    assert [outcome.rule for outcome in again.rules] == [rule.id for rule in RULES]


@pytest.mark.parametrize("name", FILES)
def test_a_stored_report_is_judged_by_another_policy(name: str) -> None:
    report = stored(name)
    again = rejudge(report, STRICT)
    assert again.policy is not None
    assert again.policy.name == "strict"
    outcome = next(outcome for outcome in rejudge(report, DEFAULT_POLICY).rules if outcome.rule == "vanishing_signal")
    could_be_judged = outcome.outcome != "not_judged"
    assert (("vanishing_signal", "fail") in rules(again)) == could_be_judged
    assert again.layers == report.layers


@pytest.mark.parametrize("name", FILES)
def test_a_stored_report_is_written_in_every_form(name: str) -> None:
    assert "<testsuites" in render_junit(stored(name))
    assert json.loads(render_sarif(stored(name)))["version"] == "2.1.0"


@pytest.mark.parametrize("name", FILES)
def test_a_stored_report_is_compared_with_itself_without_a_change(name: str) -> None:
    found = compare(stored(name), stored(name))
    assert found.change == "no_clear_change"
    assert len(found.layers) == len(stored(name).layers)


@pytest.mark.parametrize("release", RELEASES)
def test_a_stored_report_is_compared_with_another(release: str) -> None:
    healthy, sick = (stored(f"{release}/{name}.json.gz") for name in ("healthy", "sick"))
    assert compare(healthy, sick).change == "worse"
    assert compare(sick, healthy).change == "better"


@pytest.fixture(params=RELEASES)
def migrated(request: pytest.FixtureRequest, database_url: str) -> Iterator[Database]:
    """Return a database as that release left it, migrated to the current schema."""
    document = json.loads(gzip.decompress((STORED / request.param / "database.json.gz").read_bytes()))
    migrate.downgrade(database_url, "base")
    migrate.upgrade(database_url, document["revision"])
    database = Database(database_url)
    with database.write() as session:
        for table, rows in document["tables"].items():
            for row in rows:
                _insert(session, table, row)
    migrate.upgrade(database_url)
    yield database
    database.dispose()


def _insert(session: Session, table: str, row: dict[str, Any]) -> None:  # Any: what a column holds
    """Convert a value written by the release: times are UTC, and JSON is text that PostgreSQL parses."""
    values = {name: f"{value}+00" if _is_time(session, name, value) else value for name, value in row.items()}
    names = ", ".join(f'"{name}"' for name in values)
    marks = ", ".join(f":{name}" for name in values)
    session.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)


def _is_time(session: Session, name: str, value: object) -> bool:
    is_named_so = name.endswith(("_at", "_until")) and value is not None
    return is_named_so and session.get_bind().dialect.name == "postgresql"


def test_reports_of_a_migrated_database_are_judged_and_compared(migrated: Database) -> None:
    with migrated.read() as session:
        for record in queries.inspections(session, InspectionListQuery(label=["fixture"]), tenant=TENANT).items:
            report = next(stored(name) for name in FILES if name.endswith(f"/{record.labels['fixture']}.json.gz"))
            assert record.verdict == report.verdict
            found = results.findings(session, record.id, tenant=TENANT)
            assert [(finding.rule, finding.severity) for finding in found] == rules(report)
            assert tuple(found) == report.findings
            query = row_queries.InspectionLayerQuery(limit=500)
            layers = row_queries.layers(session, query, tenant=TENANT, inspection=record.id).items
            plain = [row.model_dump(exclude={"inspection", "model", "measured_by"}) for row in layers]
            assert plain == [row.model_dump() for row in report.layers]
            assert rejudge(report, policies.resolve(session, record.policy, tenant=TENANT)).verdict == record.verdict


def test_lists_of_a_migrated_database_still_filter(migrated: Database) -> None:
    with migrated.read() as session:
        query = InspectionListQuery(rule="vanishing_signal", verdict="fail")
        fired = queries.inspections(session, query, tenant=TENANT).items
        (sick,) = [record.id for record in fired if record.labels["fixture"] == "sick"]
        small = validate_query(row_queries.LayerQuery, {"cumulative_backward_gain__lt": "1e-6"})
        faint = row_queries.layers(session, small, tenant=TENANT).items
        assert sick in {row.inspection for row in faint}
        assert all(row.cumulative_backward_gain is not None and row.cumulative_backward_gain < 1e-6 for row in faint)
