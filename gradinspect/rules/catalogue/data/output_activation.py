"""The last operation of the network does not fit the loss or its targets."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.setup import OutputHead
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.faults import place
from gradinspect.rules.rule import NotJudged, Rule, Thresholds
from gradinspect.wording import number, percent

MOSTLY_OUTSIDE = 0.05  # chosen: share of targets; a few outliers are noise
NO_PROBABILITIES = 0.1  # chosen: |log Σ p|; half precision leaves 0.01

_BOUNDED = frozenset({"softmax", "sigmoid", "hardsigmoid", "tanh"})
_ONE_SIDED = frozenset({"relu", "softplus", "log_softmax", "logsigmoid"})
_RANGES = {
    "softmax": "0 … 1", "sigmoid": "0 … 1", "hardsigmoid": "0 … 1", "tanh": "-1 … 1", "relu": "0 and above",
    "softplus": "0 and above", "log_softmax": "0 and below", "logsigmoid": "0 and below",
}  # fmt: skip
_OWN = {
    "cross_entropy": "cross-entropy applies its own log_softmax",
    "bce_with_logits": "binary cross-entropy with logits applies its own sigmoid",
}


def check(evidence: Evidence, _thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the first use of an output that does not fit."""
    if not evidence.setup.heads:
        return NotJudged("no known loss takes the output")
    for head in evidence.setup.heads:
        found = _over_samples(head) or _doubled(head) or _no_log_probabilities(head) or _unreachable(head)
        if found is not None:
            message, remedy = found
            where = head.operation
            return RULE.finding(
                severity="warn",
                layers=(where.module,) if where is not None and where.module is not None else (),
                value=1.0,
                message=message,
                remedy=remedy,
                operation=where,
            )
    return None


def _over_samples(head: OutputHead) -> tuple[str, Remedy] | None:
    if not head.is_over_samples:
        return None
    own = f", and {_OWN[head.loss_function]}" if head.loss_function in _OWN else ""
    message = (
        f"{_named(head)} runs over the samples of the batch (axis 0), so the samples compete with each other and their "
        f"outputs depend on who else is in the batch{own}."
    )
    if own:
        return message, _remove(head)
    change = "Apply the softmax along the axis of the classes."
    return message, Remedy(action="mend_operation", arguments={"operation": "softmax", "change": change})


def _doubled(head: OutputHead) -> tuple[str, Remedy] | None:
    """Judge functions before a loss that takes logits."""
    last = head.last_operation
    if head.loss_function not in _OWN or last is None or last not in _BOUNDED | _ONE_SIDED:
        return None
    if head.loss_function == "cross_entropy" and last in _ONE_SIDED:
        return None  # log_softmax of log-probabilities changes nothing; logits of one sign reach every distribution
    message = (
        f"{_named(head)} comes right before {head.loss_function}, and {_OWN[head.loss_function]}: with outputs of "
        f"{_RANGES[last]} the loss cannot come near its minimum, and its gradient is small."
    )
    return message, _remove(head)


def _no_log_probabilities(head: OutputHead) -> tuple[str, Remedy] | None:
    error = head.log_probability_error
    if error is None or error <= NO_PROBABILITIES:
        return None
    last = head.last_operation
    what = f"the results of {_named(head)}" if last is not None else "plain scores"
    message = (
        f"The loss nll takes log-probabilities and gets {what}: their log Σ exp is {number(error)} away from 0, so the "
        "loss falls without limit or towards a wrong minimum."
    )
    if last == "softmax":
        return message, _remove(head, new="log_softmax")
    return message, Remedy(action="change_loss", arguments={"from": "nll", "to": "cross_entropy"})


def _unreachable(head: OutputHead) -> tuple[str, Remedy] | None:
    """Judge targets outside the range of the output, or of the loss."""
    share = head.targets_outside
    if share is None or share <= MOSTLY_OUTSIDE:
        return None
    span = f"{number(head.target_low or 0.0)} … {number(head.target_high or 0.0)}"
    if head.loss_function == "bce_with_logits":
        message = (
            f"{percent(share)} of the targets of bce_with_logits are outside 0 … 1 (they are {span}): the loss then "
            "has no minimum."
        )
        return message, Remedy(action="rescale_targets", arguments={"from": span, "to": "0 … 1"})
    if head.last_operation is None:
        return None
    message = (
        f"{_named(head)} comes last and gives {_RANGES[head.last_operation]}, and {percent(share)} of the targets are "
        f"outside of that (they are {span}): no weights reach them."
    )
    return message, _remove(head)


def _named(head: OutputHead) -> str:
    return place(head.operation) if head.operation is not None else f"`{head.last_operation}`"


def _remove(head: OutputHead, *, new: str = "identity") -> Remedy:
    arguments: dict[str, object] = {"function": head.last_operation, "new": new}
    if head.operation is not None and head.operation.module is not None:
        arguments["module"] = head.operation.module
    return Remedy(action="remove_output_activation", arguments=arguments)


RULE = Rule(
    id="output_activation",
    title="The last activation does not fit the loss",
    what="Whether the network ends with a function that its loss applies too, gives other than log-probabilities to "
    "nll, or cannot reach its targets.",
    why=(
        "Cross-entropy takes logits and normalises them itself. Probabilities in their place differ by at most 1, so "
        "the loss of a perfect classifier stays far above 0. An output that ends with ReLU, tanh or sigmoid cannot "
        "give values outside its range, whatever is learned."
    ),
    unit="outputs",
    compares="present",
    reference="torch.nn.CrossEntropyLoss, BCEWithLogitsLoss and NLLLoss: what each expects",
    check=check,
    if_it_learns="kept",
    always="warn",
)
