"""Graphs that keep their samples first beyond doubt, so that nobody needs to find out by experiment.

By induction from the inputs, whose first axis counts samples: each operation between them and the output must keep the
elements of a sample together and in the samples' order. Element-wise functions do, products with a weight,
convolutions, pooling, norms and attention within a sample, views, and transposes that leave the first axis alone. One
operation that is not listed here, and the question is left to `sample_layout`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch.autograd.graph import Node

from gradinspect.engine.per_sample.parameter_uses import ParameterSources, output_shape
from gradinspect.engine.per_sample.sample_layout import UNPLACED, Layout, Verdict
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
) -> dict[Node, Verdict] | None:
    """The layout of every operation's signal, if samples come first throughout; else None.

    Args:
        inputs: addresses of the model's inputs; a lookup of anything else is the model's own (positions 0, 1, 2 …).
    """
    users = consumers(graph)
    found: dict[Node, Verdict] = {}
    for node in graph.order:
        if hasattr(node, "variable") or sources.behind(node, 0) is not None:
            continue
        shape = output_shape(node)
        if node.name() == NODE_LOOKUP:
            own = _saved(node)._saved_indices.data_ptr() not in inputs
            if own and shape[0] == samples:
                return None  # as many positions as samples: it cannot be told from here
            found[node] = UNPLACED if own else Layout(1, samples, math.prod(shape[1:]))
        elif math.prod(shape) % samples or not _keeps_samples(node, shape, samples, sources, users.get(node, [])):
            return None
        else:
            found[node] = Layout(1, samples, math.prod(shape) // samples)
    return found


def _saved(node: Node) -> Any:  # Any: saved attributes have no stubs
    return node


def _keeps_samples(
    node: Node, shape: tuple[int, ...], samples: int, sources: ParameterSources, users: list[Node]
) -> bool:
    name, saved = node.name(), _saved(node)
    if name in NODE_KEEPING_SAMPLES:
        return True
    if name in NODE_BATCH_FIRST:
        return shape[0] % samples == 0
    if name in NODE_MATRIX_DATA_INDEX:
        others = [child for slot, child in enumerate(node.next_functions) if slot != NODE_MATRIX_DATA_INDEX[name]]
        return shape[0] % samples == 0 and all(sources.behind(*child) is not None for child in others)
    if name in NODE_ALONG_ONE_AXIS:
        dropped = 1 if name == "SelectBackward0" else 0
        return not _is_first(saved._saved_dim, len(shape) + dropped)
    if name == "TransposeBackward0":
        return not any(_is_first(axis, len(shape)) for axis in (saved._saved_dim0, saved._saved_dim1))
    if name == "PermuteBackward0":
        return _is_first(saved._saved_dims[0], len(shape)) or _is_unpacked(node, saved, users)
    if name == "UnbindBackward0":
        of_permuted = any(child is not None and child.name() == "PermuteBackward0" for child, _ in node.next_functions)
        return of_permuted or not _is_first(saved._saved_dim, len(shape) + 1)  # the permutation is looked at itself
    if name == "NativeBatchNormBackward0":
        return not saved._saved_training
    if name == "NativeLayerNormBackward0":
        return len(saved._saved_normalized_shape) < len(shape)
    if name == "MeanBackward1":
        axes = len(shape) + (0 if saved._saved_keepdim else len(saved._saved_dim))
        return not any(_is_first(axis, axes) for axis in saved._saved_dim)
    return False


def _is_first(axis: int, axes: int) -> bool:
    return axis in (0, 2**64 - axes)  # autograd saves a negative axis as a huge one


def _is_unpacked(node: Node, saved: Any, users: list[Node]) -> bool:
    """Packed query, key and value: brought to the front, with the samples behind, and taken apart there."""
    second = _is_first(saved._saved_dims[1], len(saved._saved_dims))
    return (
        second
        and bool(users)
        and all(
            user.name() == "UnbindBackward0" and _is_first(_saved(user)._saved_dim, len(output_shape(node)))
            for user in users
        )
    )
