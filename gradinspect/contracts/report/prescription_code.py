"""A prescription as source code: one pure function of its changes.

The process that inspects a model runs this text, and the trusted process makes it anew from the validated changes, so
that no text of an untrusted process is ever served as code.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from gradinspect.contracts.document import from_python
from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.actions import ACTIONS, Action
from gradinspect.contracts.report.actions.action import WIDTH, comment
from gradinspect.contracts.report.actions.training import ScaleLearningRates, SetOptimizer
from gradinspect.contracts.report.trial import Change, Prescription


def prescription_code(changes: Sequence[Change], optimizer: Optimizer) -> str:
    """Write the block that changes `model`, makes `optimizer` and, where the data must change, defines `prepare`.

    Run it with `model` in scope. It raises LookupError where a change would change nothing.

    Args:
        changes: in the order in which they are applied.
        optimizer: to train with.

    Returns:
        Python source of at most 76 letters a line.

    Raises:
        ValueError: an action is unknown or its arguments are wrong.
    """
    actions = [action_of(change) for change in changes]
    sections = ["import torch\nfrom torch import nn\n"]
    for action in actions:
        source = action.source()
        if source:
            sections.append(_spaced(comment(action.sentence()), source))
    sections.append(_optimizer_source(actions, optimizer))
    preparation = "".join(action.prepare_source() for action in actions)
    if preparation:
        sections.append(f"\ndef prepare(inputs, targets):\n{preparation}    return inputs, targets\n")
    return "\n".join(sections)


def action_of(change: Change) -> Action:
    """Validate the arguments of a change.

    Raises:
        ValueError: the action is unknown, or an argument is wrong.
    """
    action = ACTIONS.get(change.action)
    if action is None:
        raise ValueError(f"unknown action {change.action!r}")
    try:
        return from_python(action, change.arguments)
    except (ProblemError, ValidationError) as error:
        raise ValueError(f"{change.action}: {error}") from error


def change_of(action: Action, rule: str | None = None) -> Change:
    """Record an action as a change of a report."""
    return Change(
        rule=rule,
        action=action.name,
        arguments=action.model_dump(mode="json", exclude_defaults=False),
        text=action.sentence(),
    )


def with_code(prescription: Prescription) -> Prescription:
    """Make code and sentences anew from the changes, whatever the prescription holds.

    Returns:
        The prescription; without code where nothing is prescribed, and `not_found` with a reason where its changes are
        not valid.
    """
    if prescription.outcome != "found" or prescription.optimizer is None:
        return prescription.model_copy(update={"code": None, "changes": ()})
    try:
        code = prescription_code(prescription.changes, prescription.optimizer)
        actions = [action_of(change) for change in prescription.changes]
    except ValueError:
        return prescription.model_copy(
            update={"outcome": "not_found", "reason": "its changes are not valid", "changes": (), "code": None}
        )
    changes = tuple(
        change.model_copy(update={"text": action.sentence()})
        for change, action in zip(prescription.changes, actions, strict=True)
    )
    return prescription.model_copy(update={"code": code, "changes": changes})


def _spaced(head: str, source: str) -> str:
    """Put a comment in front of source; a definition gets the blank lines that it needs."""
    return f"\n{head}{source}" if source.startswith(("class ", "# Until")) else f"{head}{source}"


def _optimizer_source(actions: Sequence[Action], optimizer: Optimizer) -> str:
    scales = next((action for action in actions if isinstance(action, ScaleLearningRates)), None)
    if scales is None:
        lines, parameters, rate = "", "model.parameters()", repr(optimizer.lr)
    else:
        lines, parameters, rate = scales.groups_source(optimizer.lr), "groups", "base_lr"
    sentence = next((action.sentence() for action in actions if isinstance(action, SetOptimizer)), None)
    head = comment(sentence) if sentence is not None else ""
    after = "".join(action.optimizer_source() for action in actions)
    return f"{head}{lines}{_wrapped(f'optimizer = {optimizer.source(parameters, lr=rate)}')}\n{after}"


def _wrapped(call: str) -> str:
    """Write a call whose arguments do not fit a line with one argument a line."""
    if len(call) <= WIDTH:
        return call
    head, _, rest = call.partition("(")
    arguments: list[str] = []
    depth, part = 0, ""
    for letter in rest[:-1]:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            arguments.append(part.strip())
            part = ""
        else:
            part += letter
    arguments.append(part.strip())
    inner = "".join(f"    {argument},\n" for argument in arguments)
    return f"{head}(\n{inner})"
