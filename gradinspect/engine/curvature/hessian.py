"""Exact Hessian-vector products: the gradient's graph is kept and differentiated along any number of vectors.

Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian", in reverse over reverse mode: Hv = ∂⟨g, v⟩/∂θ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch

from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.arrays.deferred import Sum, as_floats, inner_product
from gradinspect.engine.autograd import short_second_derivatives
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import output_of
from gradinspect.engine.network.derivatives import parameter_gradients, visit_gradients


class HessianProducts:
    """Products of the loss's Hessian with vectors, at the batch of the first pass.

    Construct and use it inside `replaying`: the graph lives as long as the object. Flat vectors hold the entries one
    after the other; a block is a sequence of indices of entries.

    Attributes:
        entries: the parameters that have a gradient.
        slopes: their gradients.
        sizes: their numbers of elements.

    Raises:
        InspectionError: `unsupported_operator`, with the operator that has no second derivative.

    Cost: a forward and a backward pass at first; then about two backward passes each, less for a block near the loss.
    """

    def __init__(self, s: SectionInput) -> None:
        self.entries = [entry for entry in s.parameters if entry in s.reading.gradients]
        with torch.enable_grad(), named_operators():
            loss = s.loss_of(output_of(s))
            with short_second_derivatives():
                gradients = parameter_gradients(loss, self.entries, create_graph=True)
        self._attached = [
            torch.zeros_like(entry.tensor) if slope is None else slope
            for entry, slope in zip(self.entries, gradients, strict=True)
        ]
        self.slopes = [slope.detach() for slope in self._attached]
        self.sizes = [entry.tensor.numel() for entry in self.entries]

    @property
    def size(self) -> int:
        """Number of trained elements."""
        return sum(self.sizes)

    @property
    def everything(self) -> range:
        """The block of all entries."""
        return range(len(self.entries))

    def block_size(self, block: Sequence[int]) -> int:
        """Return the number of elements of a block."""
        return sum(self.sizes[index] for index in block)

    def visit(
        self, vectors: Sequence[torch.Tensor], block: Sequence[int], take: Callable[[int, torch.Tensor], object]
    ) -> None:
        """Compute H_bb·v entry by entry, for the entries of a block b; the others are held constant.

        Only the part of the graph between these parameters and the loss is walked.

        Args:
            vectors: v, in the shapes of the block's entries or flat.
            block: indices of entries.
            take: called once for each entry of the block, in any order, with its position in the block and its part of
                the product, which it must not keep: the parts are freed one by one.
        """
        chosen = [self.entries[index] for index in block]
        moving = [
            (slope, vector.view_as(slope).to(slope.dtype))
            for slope, vector in zip((self._attached[index] for index in block), vectors, strict=True)
            if slope.requires_grad
        ]
        if not moving:  # the gradient does not depend on the parameters
            for position, entry in enumerate(chosen):
                take(position, torch.zeros_like(entry.tensor))
            return
        slopes, along = zip(*moving, strict=True)
        with named_operators():
            visit_gradients(slopes, chosen, along=along, take=take)

    def inner(self, vectors: Sequence[torch.Tensor], block: Sequence[int]) -> list[float]:
        """Compute v_bᵀ(H_bb·v)_b of each entry of a block; they add up to vᵀHv.

        Cost: one product; on a device one synchronisation.
        """
        sums: dict[int, Sum] = {}
        self.visit(vectors, block, lambda at, part: sums.__setitem__(at, inner_product(vectors[at], part)))
        return as_floats([sums[position] for position in range(len(block))])

    def product(self, vector: torch.Tensor, out: torch.Tensor) -> None:
        """Write H·v into `out`; both flat over all entries."""
        self.block_product(vector, out, self.everything)

    def block_product(self, vector: torch.Tensor, out: torch.Tensor, block: Sequence[int]) -> None:
        """Write H_bb·v into `out`; both flat over the block."""
        sizes = [self.sizes[index] for index in block]
        parts = torch.split(out, sizes)
        self.visit(torch.split(vector, sizes), block, lambda at, part: parts[at].view_as(part).copy_(part))


class named_operators:  # noqa: N801  # a context manager, used like a function
    """Context that turns torch's refusal to differentiate twice into an error with the operator's name."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, RuntimeError):
            return
        match = re.search(r"derivative for ['\"]?(?:aten::)?([\w:]+)['\"]? is not implemented", str(error))
        if match is not None:
            raise InspectionError(
                "unsupported_operator", f"the operator {match.group(1)} has no second derivative in torch"
            ) from error
        if "once_differentiable" in str(error):
            raise InspectionError(
                "unsupported_operator", "a custom operator can be differentiated only once"
            ) from error
