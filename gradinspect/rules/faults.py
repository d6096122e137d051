"""Sentences about the operation at which a pass breaks: where it is, what went in, why, and the mend.

The measurements carry keys and numbers; this table of known traps is the only place of their words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gradinspect.contracts.report.operations import Fault, Operation, OperationInput, Trap
from gradinspect.contracts.report.report import Remedy
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.evidence import Evidence
from gradinspect.wording import number, percent, quoted


@dataclass(frozen=True, slots=True)
class TrapWords:
    """Why an operation in a trap breaks the pass, and what to change."""

    why: str
    mend: str


TRAPS: dict[Trap, TrapWords] = {
    "non_finite_data": TrapWords(
        "The data is not finite before the model sees it.", "Clean the data: drop or replace NaN and infinity."
    ),
    "root_at_zero": TrapWords(
        "At 0 a root or a distance has no slope: autograd gives infinity, or 0 where torch catches it.",
        "Add a small number inside the root, such as sqrt(x + 1e-8); for a loss, use the squared distance.",
    ),
    "outside_domain": TrapWords(
        "The input is outside the domain of the operation, which gives NaN.",
        "Keep the input inside the domain: clamp it, or use softplus or abs before a root or a logarithm.",
    ),
    "log_of_zero": TrapWords(
        "The logarithm of 0 is minus infinity, and its slope there is infinite.",
        "Compute log-probabilities directly (log_softmax, logsigmoid, …_with_logits), or log(x.clamp_min(1e-6)).",
    ),
    "edge_of_domain": TrapWords(
        "At the edge of its domain the slope of the operation is infinite.",
        "Clamp the input to (-1 + 1e-6, 1 - 1e-6), or use atan2 for an angle.",
    ),
    "division_by_zero": TrapWords("The divisor is 0.", "Add a small number to the divisor, or clamp it from below."),
    "overflow": TrapWords(
        "The result is larger than the type can hold.",
        "Clamp the input, scale the data to a size of about 1, or use the stable form (logsumexp, softplus).",
    ),
    "half_overflow": TrapWords(
        "The result is larger than half precision can hold (65,504 for float16).",
        "Use bfloat16 or float32 for this operation, or scale its input down.",
    ),
    "masked_softmax": TrapWords(
        "A row is masked everywhere: the softmax of nothing but minus infinity is 0 / 0.",
        "Let each row see at least one element, or fill the mask with -1e4 in place of -inf.",
    ),
    "where_branch": TrapWords(
        "The branch that `where` does not take is not finite: its gradient is 0 · ∞ = NaN, which `where` cannot stop.",
        "Make the input safe before the operation: where(ok, x, 1), then the operation, then where again.",
    ),
    "empty_mean": TrapWords(
        "The mean is over no element: every target is ignored, or the mask is empty.",
        "Divide by count.clamp_min(1), or skip batches that have nothing to learn from.",
    ),
    "impossible_alignment": TrapWords(
        "No alignment exists: a target is longer than its input, repeats counted.",
        "Use longer inputs or shorter targets, or zero_infinity=True to leave such samples out.",
    ),
    "softmax_of_one": TrapWords(
        "A softmax over one element is always 1, so nothing passes back through it.",
        "Use sigmoid for a single output, or apply the softmax along the axis of the classes.",
    ),
    "norm_of_one": TrapWords(
        "Statistics of one element say nothing: a value minus its own mean is 0, and its deviation is 0 or undefined.",
        "Leave this normalisation out, or normalise over more elements (larger maps, larger groups, a larger batch).",
    ),
    "no_slope": TrapWords(
        "The operation is constant between its steps, so its slope is 0.",
        "Use a smooth stand-in (sigmoid, softmax), or a straight-through estimator: x + (f(x) - x).detach().",
    ),
    "no_derivative": TrapWords(
        "Comparisons, indices and integers have no derivative, so the graph ends here.",
        "Compute the loss before this operation, or use a smooth stand-in (sigmoid, softmax, gumbel_softmax).",
    ),
    "flat_region": TrapWords(
        "All inputs are in the flat part of the operation, where its slope is 0.",
        "Bring the inputs back into its range (initialisation, bias), or use a form with a slope, such as leaky_relu.",
    ),
    "saturated": TrapWords(
        "The inputs are so large that the slope rounds to 0.",
        "Scale the inputs down, or give the loss the logits in place of the probabilities.",
    ),
    "overwritten": TrapWords(
        "The values are replaced by others, and the gradient goes to those.",
        "Write the result of a computation in place of constants, or compute the loss before.",
    ),
    "zero_factor": TrapWords(
        "The other factor of the product is 0 everywhere.", "Check the mask or the weight that is multiplied with it."
    ),
    "underflow": TrapWords(
        "The gradient shrank smoothly until the type could not hold it: nothing cuts it, it vanishes.",
        "Mend the initialisation, or add skip connections or normalisation.",
    ),
    "equal_shift": TrapWords(
        "What follows does not depend on a constant shift, so this parameter has no effect by design.",
        "Nothing needs to change; bias=False saves the parameter.",
    ),
    "cancelling_uses": TrapWords(
        "The parameter is used several times and its parts cancel, as a bias does in a difference of two outputs.",
        "Nothing needs to change; bias=False saves the parameter.",
    ),
    "only_padding": TrapWords(
        "These positions of the kernel meet nothing but padding on maps of this size.",
        "Nothing needs to change; a smaller kernel or larger maps would use all of it.",
    ),
    "zero_state": TrapWords(
        "The loss uses one step of this direction alone, which starts from a state of zeros: nothing multiplies this "
        "weight. A bidirectional layer that is read at its last step does this to its reverse direction.",
        "Read the last state of each direction, or a mean over steps; if one step is meant, nothing needs to change.",
    ),
    "detached": TrapWords("detach() ends the graph here.", "Remove the detach(), unless the stop is meant."),
    "no_grad": TrapWords(
        "Gradients are switched off here (no_grad, inference_mode or set_grad_enabled(False)).",
        "Move the computation out of no_grad.",
    ),
    "data": TrapWords("`.data` gives the values without their graph.", "Use the tensor itself in place of `.data`."),
    "left_graph": TrapWords(
        "The values leave torch as Python or numpy numbers, and a tensor made of them is a new leaf without a graph.",
        "Keep the computation in tensors: no item(), tolist(), numpy() or torch.tensor() on the way.",
    ),
    "output_activation": TrapWords(
        "The loss applies its own function to the output, or its targets are outside the range of this one.",
        "Return the values from before this operation.",
    ),
    "unknown": TrapWords("No known trap explains it.", "Look at what this operation gets and gives."),
}
OVER_ONE_ELEMENT: frozenset[Trap] = frozenset({"softmax_of_one", "norm_of_one"})
# These leave a parameter without an effect on purpose; nothing is wrong.
BY_DESIGN: frozenset[Trap] = frozenset({"equal_shift", "cancelling_uses", "only_padding", "zero_state"})


def first_fault(evidence: Evidence, kind: str, names: Iterable[str] = ()) -> Fault | None:
    """Return the first fault of a kind that concerns one of the parameters, or any where no names are given."""
    wanted = set(names)
    return next(
        (fault for fault in evidence.faults if fault.kind == kind and (not wanted or wanted & set(fault.parameters))),
        None,
    )


def fault_of_layers(evidence: Evidence, reason: Trap, rows: Iterable[LayerMeasurement]) -> Fault | None:
    """Return the fault of one trap behind which the parameters of some layer calls get no gradient."""
    names = {name for row in rows for name in row.parameters}
    return next(
        (
            fault
            for fault in evidence.faults
            if fault.kind == "zero" and fault.operation.reason == reason and names & set(fault.parameters)
        ),
        None,
    )


def place(operation: Operation, *, stage: str = "") -> str:
    """Say where an operation is: `sqrt` in `encoder.norm` (model.py, line 31)."""
    words = [quoted(operation.name)]
    if operation.module is not None:
        words.append(f"in {quoted(operation.module)}")
    elif stage == "loss":
        words.append("in the loss")
    if operation.source is not None:
        words.append(f"({_file_name(operation.source.file)}, line {operation.source.line})")
    return " ".join(words)


def inputs_in_words(operation: Operation) -> str:
    """Say what went in: Its input is 3e-8 to 12, with 4 % zeros. Empty where nothing is known."""
    sentences = []
    many = len(operation.inputs) > 1
    for index, each in enumerate(operation.inputs[:2]):
        words = _input(each)
        if words:
            sentences.append(f"{'Input ' + str(index + 1) if many else 'Its input'} {words}.")
    if operation.axis_size is not None:
        elements = "one element" if operation.axis_size == 1 else f"{operation.axis_size:,} elements"
        sentences.append(f"It runs over {elements}.")
    return " ".join(sentences)


def explanation(fault: Fault) -> str:
    """Write why the operation breaks the pass, and what went in."""
    return f"{TRAPS[fault.operation.reason].why} {inputs_in_words(fault.operation)}".strip()


def no_gradient_in_words(fault: Fault) -> str:
    """Say which operation keeps every parameter from getting a gradient, and what to change."""
    words = TRAPS[fault.operation.reason]
    return f"the gradient's way back from the loss ends at {place(fault.operation)}. {words.why} {words.mend}"


def mend(fault: Fault) -> Remedy:
    """Return the change that the trap asks for."""
    operation = fault.operation
    change = TRAPS[operation.reason].mend
    arguments: dict[str, object] = {"operation": operation.name, "reason": operation.reason, "change": change}
    if operation.module is not None:
        arguments["module"] = operation.module
    return Remedy(action="mend_operation", arguments=arguments)


def _input(each: OperationInput) -> str:
    if each.smallest is None or each.largest is None:
        return f"has {each.nonfinite_count:,} values that are not finite" if each.nonfinite_count else ""
    low, high = number(each.smallest), number(each.largest)
    words = f"is {low} everywhere" if each.smallest == each.largest else f"is between {low} and {high}"
    if each.zero_fraction and each.smallest != each.largest:
        words += f", with {percent(each.zero_fraction)} zeros"
    if each.nonfinite_count:
        words += f", and {each.nonfinite_count:,} values are not finite"
    return words


def _file_name(file: str) -> str:
    return file.replace("\\", "/").rpartition("/")[2][:80] or "source"
