"""Networks that are each in one known trap; the line that is to blame ends with `# here`.

All of them can be scripted. `near_miss` of a trap is a network that differs from it in the mend alone.
"""

# mypy: disable-error-code="no-any-return"
# torch leaves the call of a module untyped, and TorchScript takes no casts.

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """Linear(4, 8), something in between, Linear(8, 3)."""

    def __init__(self, safe: bool = False) -> None:
        super().__init__()
        self.a = nn.Linear(4, 8)
        self.b = nn.Linear(8, 3)
        self.safe = safe


class SqrtAtZero(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.a(x))
        h = h + 1.0 if self.safe else h
        h = torch.sqrt(h)  # here
        return self.b(h)


class NormAtZero(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        d = h if self.safe else h - self.a(x)
        n = torch.norm(d, dim=1, keepdim=True)  # here
        return self.b(n.expand(-1, 8))


class RootByPow(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.a(x))
        h = h + 1.0 if self.safe else h
        h = h**0.5  # here
        return self.b(h)


class CdistAtZero(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        other = 0.5 * h if self.safe else h
        d = torch.cdist(h[:, None], other[:, None])  # here
        return self.b(d[:, 0].expand(-1, 8))


class StdAtZero(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h[:, :1].expand(-1, 8)
        s = h.std(1, keepdim=True)  # here
        return self.b(s.expand(-1, 8))


class RsqrtAtZero(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.a(x))
        h = h + 1.0 if self.safe else h
        h = torch.rsqrt(h)  # here
        return self.b(h)


class LogOfZero(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.a(x))
        h = h + 1.0 if self.safe else h
        h = torch.log(h)  # here
        return self.b(h)


class LogOfNegative(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h.exp() if self.safe else h
        h = torch.log(h)  # here
        return self.b(h)


class Log1pBelow(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h.abs() if self.safe else h * 10.0
        h = torch.log1p(h)  # here
        return self.b(h)


class AcosAtOne(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = h if self.safe else h / h.detach()
        h = torch.acos(h.clamp(-1.0, 1.0))  # here
        return self.b(h)


class AsinAtOne(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = h if self.safe else h / h.detach()
        h = torch.asin(h)  # here
        return self.b(h)


class AtanhAtOne(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = h if self.safe else h / h.detach()
        h = torch.atanh(h)  # here
        return self.b(h)


class AcosOutside(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = torch.tanh(h) if self.safe else h * 5.0
        h = torch.acos(h)  # here
        return self.b(h)


class SqrtOfNegative(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h.abs() + 0.1 if self.safe else h
        h = torch.sqrt(h)  # here
        return self.b(h)


class DivisionByZero(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        d = functional.relu(h)
        d = d + 1.0 if self.safe else d
        h = h / d  # here
        return self.b(h)


class ReciprocalOfZero(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.a(x))
        h = h + 1.0 if self.safe else h
        h = torch.reciprocal(h)  # here
        return self.b(h)


class MaskedMean(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        mask = (x[:, :1] > 1e3).to(h.dtype)
        count = mask.sum()
        count = count.clamp_min(1.0) if self.safe else count
        h = h + (h * mask).sum(0) / count  # here
        return self.b(h)


class ExpOverflow(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h * 1e4
        h = torch.exp(h)  # here
        return self.b(h)


class CoshOverflow(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h * 1e4
        h = torch.cosh(h)  # here
        return self.b(h)


class Expm1Overflow(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h * 1e4
        h = torch.expm1(h)  # here
        return self.b(h)


class PowOverflow(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) + 1e-3
        h = h if self.safe else h * 1e4
        h = torch.pow(h, 12)  # here
        return self.b(h)


class HalfOverflow(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h * 1e6
        h = h.half()  # here
        return self.b(h.float())


class SoftmaxOfOne(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h[:, :1]
        h = torch.softmax(h, 1)  # here
        return self.b(h.expand(-1, 8))


class LogSoftmaxOfOne(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h[:, :1]
        h = torch.log_softmax(h, 1)  # here
        return self.b(h.expand(-1, 8))


class MaskedSoftmax(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        mask = x[:, :1] > (1e3 if self.safe else 0.0)
        h = h.masked_fill(mask, float("-inf"))
        h = torch.softmax(h, 1)  # here
        return self.b(h)


class LayerNormOfOne(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h[:, :1]
        h = functional.layer_norm(h, [h.size(1)])  # here
        return self.b(h.expand(-1, 8))


class GroupNormOfOne(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = functional.group_norm(h, 2 if self.safe else 8)  # here
        return self.b(h)


class Round(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else torch.round(h)  # here
        return self.b(h)


class Floor(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else torch.floor(h)  # here
        return self.b(h)


class Ceil(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else torch.ceil(h)  # here
        return self.b(h)


class Sign(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else torch.sign(h)  # here
        return self.b(h)


class Comparison(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else (h > 0).float()  # here
        return self.b(h)


class Argmax(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        i = h.argmax(1)  # here
        one = functional.one_hot(i, 8).float()
        return self.b(h + one if self.safe else one)


class CastToInt(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h.long().float()  # here
        return self.b(h)


class ClampOutside(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h + 100.0
        h = torch.clamp(h, -50.0, 50.0)  # here
        return self.b(h)


class HardtanhOutside(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h + 100.0
        h = functional.hardtanh(h)  # here
        return self.b(h)


class HardsigmoidOutside(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h + 100.0
        h = functional.hardsigmoid(h)  # here
        return self.b(h)


class DeadRelu(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h - 100.0
        h = functional.relu(h)  # here
        return self.b(h)


class SaturatedSigmoid(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h + 200.0
        h = torch.sigmoid(h)  # here
        return self.b(h)


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = h if self.safe else h.detach()  # here
        return self.b(h)


class NoGrad(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.safe:
            h = torch.tanh(h)
        else:
            with torch.no_grad():
                h = torch.tanh(h)  # here
        return self.b(h)


class Item(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        value = float(h.mean().item())  # here
        return self.b(h * value if self.safe else x.repeat(1, 2) * value)


class NewLeaf(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        leaf = torch.full_like(h, float(h.sum()))  # here
        return self.b(h + leaf if self.safe else leaf)


class WhereSqrt(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        ok = h > 0
        inner = torch.where(ok, h, torch.ones_like(h)) if self.safe else h
        root = torch.sqrt(inner)  # here
        return self.b(torch.where(ok, root, torch.zeros_like(h)))


class WhereLog(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.a(x))
        ok = h > 0
        inner = torch.where(ok, h, torch.ones_like(h)) if self.safe else h
        log = torch.log(inner)  # here
        return self.b(torch.where(ok, log, torch.zeros_like(h)))


class WhereExp(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) * (1.0 if self.safe else 1e4)
        ok = h < 1
        inner = torch.where(ok, h, torch.zeros_like(h)) if self.safe else h
        big = torch.exp(inner)  # here
        return self.b(torch.where(ok, big, torch.zeros_like(h)))


class Overwritten(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.a(x))
        limit = 2.0 if self.safe else -1.0
        h = h.masked_fill(h > limit, 1.0)  # here
        return self.b(h)


class ZeroMask(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        mask = torch.ones_like(h) if self.safe else torch.zeros_like(h)
        h = h * mask  # here
        return self.b(h)


class Underflow(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        factor = 1.0 if self.safe else 1e-30
        h = h * factor  # here
        h = h * factor
        return self.b(h)


class BatchNormOfOne(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else h[:1]
        v = h.var(0)  # here
        return self.b((h + v).expand(x.size(0), -1))


class ZeroNorm(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h if self.safe else functional.relu(h - 1e4)
        h = h / h.norm()  # here
        return self.b(h)


@dataclass(frozen=True)
class Trap:
    """One network with what is to be said of it.

    Attributes:
        net: the class.
        operations: names that are right for the operation.
        reasons: keys that are right.
    """

    net: type[Net]
    operations: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def line(self) -> int:
        """The line that is to blame."""
        lines, start = inspect.getsourcelines(self.net)
        return start + next(index for index, line in enumerate(lines) if line.rstrip().endswith("# here"))


TRAPS = (
    Trap(SqrtAtZero, ("sqrt",), ("root_at_zero",)),
    Trap(NormAtZero, ("norm",), ("root_at_zero",)),
    Trap(RootByPow, ("pow",), ("root_at_zero",)),
    Trap(CdistAtZero, ("cdist",), ("root_at_zero",)),
    Trap(StdAtZero, ("std",), ("root_at_zero",)),
    Trap(RsqrtAtZero, ("rsqrt",), ("division_by_zero",)),
    Trap(LogOfZero, ("log",), ("log_of_zero",)),
    Trap(LogOfNegative, ("log",), ("outside_domain",)),
    Trap(Log1pBelow, ("log1p",), ("outside_domain",)),
    Trap(AcosAtOne, ("acos",), ("edge_of_domain",)),
    Trap(AsinAtOne, ("asin",), ("edge_of_domain",)),
    Trap(AtanhAtOne, ("atanh",), ("edge_of_domain",)),
    Trap(AcosOutside, ("acos",), ("outside_domain",)),
    Trap(SqrtOfNegative, ("sqrt",), ("outside_domain",)),
    Trap(DivisionByZero, ("div",), ("division_by_zero",)),
    Trap(ReciprocalOfZero, ("reciprocal",), ("division_by_zero",)),
    Trap(MaskedMean, ("div",), ("division_by_zero",)),
    Trap(ExpOverflow, ("exp",), ("overflow",)),
    Trap(CoshOverflow, ("cosh",), ("overflow",)),
    Trap(Expm1Overflow, ("expm1",), ("overflow",)),
    Trap(PowOverflow, ("pow",), ("overflow",)),
    Trap(HalfOverflow, ("to",), ("half_overflow",)),
    Trap(SoftmaxOfOne, ("softmax",), ("softmax_of_one",)),
    Trap(LogSoftmaxOfOne, ("log_softmax",), ("softmax_of_one",)),
    Trap(MaskedSoftmax, ("softmax",), ("masked_softmax",)),
    Trap(LayerNormOfOne, ("layer_norm",), ("norm_of_one",)),
    Trap(GroupNormOfOne, ("group_norm",), ("norm_of_one",)),
    Trap(Round, ("round",), ("no_slope",)),
    Trap(Floor, ("floor",), ("no_slope",)),
    Trap(Ceil, ("ceil",), ("no_slope",)),
    Trap(Sign, ("sign",), ("no_slope",)),
    Trap(Comparison, ("gt",), ("no_derivative",)),
    Trap(Argmax, ("argmax",), ("no_derivative",)),
    Trap(CastToInt, ("to",), ("no_derivative",)),
    Trap(ClampOutside, ("clamp",), ("flat_region",)),
    Trap(HardtanhOutside, ("hardtanh",), ("flat_region",)),
    Trap(HardsigmoidOutside, ("hardsigmoid",), ("flat_region",)),
    Trap(DeadRelu, ("relu",), ("flat_region",)),
    Trap(SaturatedSigmoid, ("sigmoid",), ("saturated",)),
    Trap(Detached, ("detach",), ("detached",)),
    Trap(NoGrad, ("no_grad",), ("no_grad",)),
    Trap(Item, ("item",), ("left_graph",)),
    Trap(NewLeaf, ("item",), ("left_graph",)),
    Trap(WhereSqrt, ("sqrt",), ("where_branch",)),
    Trap(WhereLog, ("log",), ("where_branch",)),
    Trap(WhereExp, ("exp",), ("where_branch",)),
    Trap(Overwritten, ("masked_fill",), ("overwritten",)),
    Trap(ZeroMask, ("mul",), ("zero_factor",)),
    Trap(Underflow, ("mul",), ("underflow",)),
    Trap(BatchNormOfOne, ("var",), ("norm_of_one",)),
    Trap(ZeroNorm, ("div",), ("division_by_zero",)),
)
