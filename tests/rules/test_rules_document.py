"""docs/rules.md is generated from the rules, and every rule is fully described."""

from pathlib import Path

import pytest

from gradinspect.rules import RULES, Rule
from gradinspect.rules.document import document

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"


def test_the_page_is_generated_from_the_rules() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), "run: python -m gradinspect.rules.document > docs/rules.md"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_explains_itself(rule: Rule) -> None:
    assert rule.title
    assert rule.what.endswith(".")
    assert rule.why.endswith(".")
    assert rule.reference
    assert rule.unit


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_threshold_names_its_source(rule: Rule) -> None:
    levels = [level for level in (rule.info, rule.warn, rule.fail) if level is not None]
    assert (rule.always is None) == bool(levels)
    assert all(len(level.source) > 10 for level in levels)
