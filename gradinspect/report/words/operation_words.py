"""The operation of a finding in words: its name, its module, its line, and what went in."""

from __future__ import annotations

from gradinspect.contracts.report.operations import Operation, OperationInput
from gradinspect.report.words.figures import printable, shape, shortened
from gradinspect.wording import number, percent, quoted


def operation_in_words(operation: Operation) -> str:
    """Write where an operation is: `sqrt` in `encoder`, model.py, line 31."""
    module = f" in {quoted(operation.module)}" if operation.module is not None else ""
    source = operation.source
    line = f", {shortened(source.file, 80)}, line {source.line}" if source is not None else ""
    return printable(f"{quoted(operation.name)}{module}{line}")


def operation_code(operation: Operation) -> str | None:
    """Return the line of source code, safe to print; None where it is not known."""
    source = operation.source
    return printable(source.code) if source is not None and source.code else None


def operation_inputs(operation: Operation) -> tuple[str, ...]:
    """Describe each tensor that went in, and the axis that a softmax or a normalisation runs over."""
    words = [_input(each) for each in operation.inputs]
    if operation.axis_size is not None:
        words.append(f"over {operation.axis_size:,} element{'' if operation.axis_size == 1 else 's'}")
    return tuple(words)


def _input(each: OperationInput) -> str:
    words = f"{printable(each.dtype)} {shape(each.shape)}"
    if each.smallest is not None and each.largest is not None:
        words += f", {number(each.smallest)} to {number(each.largest)}"
    if each.zero_fraction:
        words += f", {percent(each.zero_fraction)} zeros"
    if each.nonfinite_count:
        words += f", {each.nonfinite_count:,} not finite"
    return words
