"""Write docs/rules.md from the rules: `python -m gradinspect.rules.document > docs/rules.md`.

A test compares the file with what this writes; do not edit it by hand.
"""

from __future__ import annotations

import sys

from gradinspect.contracts.request.policy import LEVELS, Severity
from gradinspect.rules.catalogue import RULES
from gradinspect.rules.rule import IF_IT_LEARNS, Rule
from gradinspect.wording import bound_in_words

_INTRODUCTION = """# Rules

This page is generated from `gradinspect/rules/catalogue/` by `python -m gradinspect.rules.document`.

A rule looks at stored measurements and says nothing, or makes one finding: `info`, `warn` or `fail`. The learning trial
weighs the findings first ([what a verdict means](verdicts.md)). The verdict is then the severest of `fail` and `warn`;
without either it is `pass`; `undetermined` when the backward signal could not be judged and no trial saw the model
learn. `info` never changes a verdict. A rule whose measurement is missing is not judged, and the report says so.

Multiplying the loss by a constant changes no verdict. Five rules look at the loss together with a number that was
declared, and are silent when it was not: `update_ratio`, `optimizer_step` and `sharpness` (the optimizer's learning
rate), `low_precision_underflow` and `low_precision_overflow` (the intended precision and its loss scale). Dividing that
number by the constant keeps their verdict too.

Every number can be changed by a policy, for example:

```json
{"name": "strict", "rules": {"vanishing_signal": {"warn": 0.01, "fail": 1e-4}, "sharpness": {"enabled": false}}}
```

What a policy leaves out keeps its default; `null` switches a level off. `update_ratio`, `initialization_mismatch`,
`input_scale` and `target_scale` take ranges, `[low, high]`.
"""


def document() -> str:
    """Return the whole page."""
    return "\n".join([_INTRODUCTION, *_table(), *(_section(rule) for rule in RULES)]).rstrip() + "\n"


def _table() -> list[str]:
    rows = ["| rule | finding | info | warn | fail |", "|---|---|---|---|---|"]
    for rule in RULES:
        cells = " | ".join(_level(rule, level) for level in LEVELS)
        rows.append(f"| [`{rule.id}`](#{rule.id}) | {rule.title} | {cells} |")
    return [*rows, ""]


def _level(rule: Rule, level: Severity) -> str:
    if rule.compares == "present":
        return "yes" if rule.always == level else ""
    default = rule.default(level)
    return bound_in_words(rule.compares, default.value) if default is not None else ""


def _section(rule: Rule) -> str:
    lines = [f"## {rule.id}", "", f"**{rule.title}.** {rule.what}", "", rule.why, ""]
    for level in LEVELS:
        default = rule.default(level)
        if default is not None:
            bound = bound_in_words(rule.compares, default.value)
            lines.append(f"- {level} {bound} ({rule.unit}): {default.source}.")
    if rule.compares == "present":
        lines.append(f"- {rule.always}, whenever there is one; no threshold ({rule.unit}).")
    return "\n".join([*lines, f"- {IF_IT_LEARNS[rule.if_it_learns]}", f"- Source: {rule.reference}.", ""])


if __name__ == "__main__":
    sys.stdout.write(document())
