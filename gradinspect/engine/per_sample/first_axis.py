"""Fast path of the sample layout: prove from the graph that axis 0 is the batch axis in every node.

By induction from the inputs, whose first axis is the batch: each operation between them and the output must keep the
elements of a sample together and in the samples' order. Element-wise functions do, products with a weight,
convolutions, pooling, norms and attention within a sample, views, and transposes that leave the first axis alone. If
the graph contains any operation without a rule here, `layout_probe` decides by experiment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch.autograd.graph import Node

from gradinspect.engine.per_sample.parameter_uses import ParameterSources, output_shape, saved_by
from gradinspect.engine.per_sample.sample_layout import UNPLACED, Layout, LayoutResult
from gradinspect.engine.tracing.graph import Graph, consumers
from gradinspect.engine.tracing.operator_names import (
    NODE_ALONG_ONE_AXIS,
    NODE_BATCH_FIRST,
    NODE_KEEPING_SAMPLES,
    NODE_LOOKUP,
    NODE_MATRIX_DATA_INDEX,
)


def on_first_axis(
    graph: Graph, sources: ParameterSources, samples: int, inputs: Collection[int]
) -> dict[Node, LayoutResult] | None:
    """Return the layout of every operation's output, if samples come first throughout; else None.

    Args:
        graph: the graph behind the model's output.
        sources: which nodes only reshape a parameter.
        samples: size of the batch.
        inputs: addresses of the model's inputs. A lookup by any other indices (positions 0, 1, 2 …) has no samples.
    """
    users = consumers(graph)
    layouts: dict[Node, LayoutResult] = {}
    for node in graph.order:
        if hasattr(node, "variable") or sources.behind(node, 0) is not None:
            continue
        shape = output_shape(node)
        if node.name() == NODE_LOOKUP:
            has_samples = saved_by(node)._saved_indices.data_ptr() in inputs
            if not has_samples and shape[0] == samples:
                return None  # as many positions as samples: an experiment has to tell them apart
            layouts[node] = Layout(1, samples, math.prod(shape[1:])) if has_samples else UNPLACED
        elif math.prod(shape) % samples or not _keeps_samples(_Operation(node, shape, samples, sources, users)):
            return None
        else:
            layouts[node] = Layout(1, samples, math.prod(shape) // samples)
    return layouts


@dataclass(frozen=True)
class _Operation:
    node: Node
    shape: tuple[int, ...]
    samples: int
    sources: ParameterSources
    users: Mapping[Node, list[Node]]

    @property
    def has_whole_rows(self) -> bool:
        """Whether the first axis counts samples, alone or with time folded in."""
        return self.shape[0] % self.samples == 0


def _keeps_samples(operation: _Operation) -> bool:
    name = operation.node.name()
    if name in NODE_KEEPING_SAMPLES:
        return True
    if name in NODE_BATCH_FIRST:
        return operation.has_whole_rows
    if name in NODE_MATRIX_DATA_INDEX:
        return operation.has_whole_rows and _multiplies_parameters(operation, NODE_MATRIX_DATA_INDEX[name])
    if name in NODE_ALONG_ONE_AXIS:
        removed_axes = 1 if name == "SelectBackward0" else 0
        return not _is_first(saved_by(operation.node)._saved_dim, len(operation.shape) + removed_axes)
    rule = _RULES.get(name)
    return rule is not None and rule(operation)


def _multiplies_parameters(operation: _Operation, data_index: int) -> bool:
    others = [child for slot, child in enumerate(operation.node.next_functions) if slot != data_index]
    return all(operation.sources.behind(*child) is not None for child in others)


def _is_first(axis: int, axes: int) -> bool:
    return axis in (0, 2**64 - axes)  # autograd saves a negative axis as an unsigned 64-bit number


def _transpose(operation: _Operation) -> bool:
    saved = saved_by(operation.node)
    return not any(_is_first(axis, len(operation.shape)) for axis in (saved._saved_dim0, saved._saved_dim1))


def _permute(operation: _Operation) -> bool:
    """Accept the first axis in place, or packed query, key and value in front of it that are unbound at once."""
    dims, users = saved_by(operation.node)._saved_dims, operation.users.get(operation.node, [])
    is_unbound_in_front = bool(users) and all(
        user.name() == "UnbindBackward0" and _is_first(saved_by(user)._saved_dim, len(operation.shape))
        for user in users
    )
    return _is_first(dims[0], len(operation.shape)) or (_is_first(dims[1], len(dims)) and is_unbound_in_front)


def _unbind(operation: _Operation) -> bool:
    children = [child for child, _ in operation.node.next_functions]
    if any(child is not None and child.name() == "PermuteBackward0" for child in children):
        return True  # the permutation has its own rule
    return not _is_first(saved_by(operation.node)._saved_dim, len(operation.shape) + 1)


def _batch_norm(operation: _Operation) -> bool:
    return not saved_by(operation.node)._saved_training


def _layer_norm(operation: _Operation) -> bool:
    return len(saved_by(operation.node)._saved_normalized_shape) < len(operation.shape)


def _mean(operation: _Operation) -> bool:
    saved = saved_by(operation.node)
    axes = len(operation.shape) + (0 if saved._saved_keepdim else len(saved._saved_dim))
    return not any(_is_first(axis, axes) for axis in saved._saved_dim)


_RULES: Mapping[str, Callable[[_Operation], bool]] = {
    "TransposeBackward0": _transpose,
    "PermuteBackward0": _permute,
    "UnbindBackward0": _unbind,
    "NativeBatchNormBackward0": _batch_norm,
    "NativeLayerNormBackward0": _layer_norm,
    "MeanBackward1": _mean,
}
