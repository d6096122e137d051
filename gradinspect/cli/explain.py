"""`gradinspect explain RULE`."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gradinspect.rules import Rule

EXAMPLES = """\b
Examples:
  gradinspect explain
  gradinspect explain vanishing_signal"""


@click.command(epilog=EXAMPLES)
@click.argument("rule", metavar="RULE", required=False)
def explain(rule: str | None) -> None:
    """Explain RULE: what it measures, why that matters, its thresholds and their source; without RULE list all.

    Exit codes: 0 done; 2 there is no such rule.
    """
    from gradinspect.cli.outputs import terminal_width
    from gradinspect.contracts.spelling import did_you_mean
    from gradinspect.rules import RULES

    rules = {known.id: known for known in RULES}
    if rule is None:
        width = max(map(len, rules))
        click.echo("\n".join(f"{known.id:{width}}  {known.title}" for known in RULES))
        return
    if rule not in rules:
        raise click.UsageError(f"there is no rule {rule!r}{did_you_mean(rule, rules) or '; explain lists them'}")
    width = terminal_width()
    # Words with a hyphen stay whole, so that names and numbers such as 1e-6 can be copied.
    click.echo("\n\n".join(fill(text, width, break_on_hyphens=False) for text in _paragraphs(rules[rule])))


def _paragraphs(rule: Rule) -> list[str]:
    from gradinspect.contracts.request.policy import LEVELS
    from gradinspect.rules.rule import IF_IT_LEARNS
    from gradinspect.wording import bound_in_words

    texts = [f"{rule.id}: {rule.title}. {rule.what}", rule.why]
    for level in LEVELS:
        if (default := rule.default(level)) is not None:
            texts.append(f"{level} {bound_in_words(rule.compares, default.value)} ({rule.unit}): {default.source}.")
    if rule.always is not None:
        texts.append(f"{rule.always} whenever it is found; there is no threshold.")
    return [*texts, IF_IT_LEARNS[rule.if_it_learns], f"Source: {rule.reference}."]
