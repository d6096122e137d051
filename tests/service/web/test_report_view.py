"""The report page's words, tables and order, from reports made by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gradinspect.contracts.report.report import Measurements, Remedy, Report
from gradinspect.contracts.report.sections import Noise
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy, RulePolicy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.resources import ErrorResource, InspectionLinks, InspectionResource, Progress
from gradinspect.report.words.remedy_words import remedy_in_words
from gradinspect.rules import RULES, judge
from gradinspect.testing.measurements import MODEL, chain, changed
from service.web.layer_table import WORST, layer_table
from service.web.report_view import Inspection, InspectionView

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LINKS = InspectionLinks(**dict.fromkeys(InspectionLinks.model_fields, "/"))


def judged(measured: Measurements, policy: Policy = DEFAULT_POLICY) -> Report:
    return judge(measured, policy=policy, model=MODEL, inspection="insp_1", settings=InspectionSettings())


def resource(**fields: Any) -> InspectionResource:  # Any: fields of InspectionResource
    defaults: dict[str, Any] = {
        "id": "insp_1", "status": "succeeded", "model": "mdl_1", "verdict": None,
        "progress": Progress(stage="report", fraction=1.0), "summary": None, "error": None, "attempt": 1, "labels": {},
        "policy": "default", "created_at": NOW - timedelta(minutes=5), "started_at": NOW - timedelta(minutes=5),
        "finished_at": NOW - timedelta(minutes=4, seconds=48), "links": LINKS,
    }  # fmt: skip
    return InspectionResource(**(defaults | fields))


def view(report: Report | None, *, policy: Policy = DEFAULT_POLICY, **options: Any) -> InspectionView:
    known = options.pop("resource", resource())
    settings = options.pop("settings", InspectionSettings())
    return InspectionView(Inspection(known, "net", "cpu", settings, policy, report), now=NOW, **options)


def test_the_headline_has_a_number_and_a_place() -> None:
    assert view(judged(chain((0.1,) * 5))).headline == (
        "The backward signal shrinks 100,000-fold from output to input, so the first 2 layers (`0` to `1`) "
        "barely learn."
    )


def test_failed_findings_are_open_and_the_others_closed() -> None:
    cards = view(judged(changed(chain((0.1,) * 5), "2", nonfinite_count=1))).findings
    assert [(card.finding.severity, card.is_open) for card in cards] == [("fail", True), ("warn", False)]


def test_a_finding_shows_its_bound_and_where_the_number_comes_from() -> None:
    card = view(judged(chain((0.1,) * 5))).findings[0]
    assert card.bound == "below 0.001"
    assert card.source is not None


def test_a_threshold_of_a_policy_is_shown_without_the_default_s_source() -> None:
    policy = Policy(name="mine", version=3, rules={"vanishing_signal": RulePolicy(warn=0.01)})
    shown = view(judged(chain((0.3,) * 5), policy), policy=policy)
    assert shown.findings[0].bound == "below 0.01"
    assert shown.findings[0].source is None
    assert shown.policy_name == "mine, version 3"


def test_every_rule_is_somewhere_on_the_page() -> None:
    shown = view(judged(chain((0.1,) * 5)))
    listed = {card.rule.id for card in shown.findings} | {rule.id for rule in shown.passed}
    assert listed | {name for name, _ in shown.not_judged} == {rule.id for rule in RULES}


def test_what_was_not_measured_is_named_with_its_reason() -> None:
    report = judged(chain(noise=Noise(status="undetermined", reason="the batch has one sample")))
    missing = dict(view(report).not_measured)
    assert missing["Gradient noise"] == "the batch has one sample"
    assert missing["Curvature"] == "not requested; add curvature to the diagnostics"


def test_the_chart_shows_the_policy_s_thresholds_and_points_to_the_table() -> None:
    chart = view(judged(chain((0.1,) * 5))).chart
    assert ">warn<" in chart
    assert 'aria-describedby="layers-table"' in chart


def test_a_failed_inspection_says_what_to_do() -> None:
    error = ErrorResource(code="memory_limit", detail="more than 4 GiB", attempt=2)
    shown = view(None, resource=resource(status="failed", error=error))
    assert shown.word == "failed"
    assert "smaller batch" in shown.remedy


@pytest.mark.parametrize(("status", "active"), [("queued", True), ("running", True), ("cancelled", False)])
def test_only_what_goes_on_is_followed(status: str, active: bool) -> None:
    assert view(None, resource=resource(status=status)).is_active is active


def test_the_worst_layers_are_shown_in_the_network_s_order() -> None:
    measured = changed(chain((0.9,) * 60), "30", nonfinite_count=4)
    table = layer_table(judged(measured), shows_all=False, sort="depth")
    depths = [row.layer.depth for row in table.rows]
    assert len(depths) == WORST
    assert 30 in depths
    assert 0 in depths  # farthest from balance
    assert depths == sorted(depths)
    assert not table.shows_all


def test_all_layers_can_be_sorted_by_a_number_with_missing_ones_last() -> None:
    report = judged(chain((0.5, 2.0, 0.25)))
    ascending = layer_table(report, shows_all=True, sort="backward_gain")
    assert [row.layer.backward_gain for row in ascending.rows] == [0.25, 0.5, 2.0, None]
    descending = layer_table(report, shows_all=True, sort="-backward_gain")
    assert [row.layer.backward_gain for row in descending.rows] == [2.0, 0.5, 0.25, None]


def test_an_unknown_order_is_the_network_s() -> None:
    table = layer_table(judged(chain()), shows_all=True, sort="__class__")
    assert table.sort == "depth"


def test_layers_that_findings_name_are_flagged() -> None:
    table = layer_table(judged(chain((0.01,) * 5)), shows_all=True, sort="depth")
    assert [row.flag for row in table.rows] == ["fail", "fail", "fail", "fail", "", ""]


def test_every_remedy_of_the_rules_has_words() -> None:
    assert remedy_in_words(Remedy(action="set_loss_scale", arguments={"loss_scale": 1024.0})) == (
        "Use a loss scale of 1024."
    )
    assert remedy_in_words(Remedy(action="scale_residual", arguments={})) is None
    assert remedy_in_words(Remedy(action="something_new")) is None
