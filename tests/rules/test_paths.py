"""Verdicts follow the paths of a network: branches, recurrences, sizes that are divided out, and gates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect import inspect
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.engine.network.reproducible import seeded
from gradinspect.testing.reference_networks import INFERRED
from tests.support.networks.inspected import traced


class Written(nn.Module):
    """A forward pass written as a function over layers by name."""

    def __init__(self, forward: Callable[..., torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.written = forward

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        return self.written(self.layers, *inputs)


def drawn(make: Callable[[], Report], seed: int = 0) -> Report:
    with seeded(seed, torch.device("cpu")):
        return make()


def alarms(report: Report) -> list[str]:
    return [finding.rule for finding in report.findings if finding.severity != "info"]


def finding(report: Report, rule: str) -> Finding | None:
    return next((finding for finding in report.findings if finding.rule == rule), None)


def sigmoids(depth: int, width: int = 16) -> nn.Sequential:
    return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(width, width), nn.Sigmoid())))


# Branches


def test_a_condition_that_runs_first_is_not_compared_with_the_trunk() -> None:
    def forward(m: nn.ModuleDict, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        condition = m["t"](t) * 1e-4
        out: torch.Tensor = m["c"](m["b"](m["a"](x).relu() + condition).relu())
        return out

    def made() -> Report:
        model = Written(forward, t=nn.Linear(1, 32), a=nn.Linear(16, 32), b=nn.Linear(32, 32), c=nn.Linear(32, 3))
        return inspect(model, (torch.randn(32, 16), torch.randn(32, 1)), torch.randint(0, 3, (32,)))

    assert drawn(made).findings == ()


def test_a_branch_whose_own_signal_vanishes_is_found() -> None:
    def forward(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        longer = x
        for name in ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"):
            longer = m[name](longer).relu()
        out: torch.Tensor = m["o"](longer + m["side"](x))
        return out

    def made(side: nn.Module) -> Report:
        parts = {name: nn.Linear(16, 16) for name in "abcdefghijklmn"}
        for part in parts.values():
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        model = Written(forward, **parts, side=side, o=nn.Linear(16, 3))
        return inspect(model, torch.randn(64, 16), torch.randint(0, 3, (64,)), trial="off", policy=INFERRED)

    sick = finding(drawn(lambda: made(sigmoids(12))), "vanishing_signal")
    assert sick is not None
    assert sick.severity == "fail"
    assert "on the branch from `layers.side.22` back to `layers.side.0`" in sick.message
    assert finding(drawn(lambda: made(sigmoids(2))), "vanishing_signal") is None


# Recurrences


def tagger(weights: torch.Tensor) -> Report:
    def forward(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = m["o"](m["r"](x)[0])
        return out

    def loss(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return (functional.cross_entropy(output.movedim(-1, 1), target, reduction="none") * weights).mean()

    model = Written(forward, r=nn.GRU(8, 32, batch_first=True), o=nn.Linear(32, 5))
    return inspect(model, torch.randn(16, 50, 8), torch.randint(0, 5, (16, 50)), loss=loss)


def test_a_loss_that_weighs_early_steps_makes_nothing_grow() -> None:
    report = drawn(lambda: tagger(torch.exp(-torch.arange(50.0) / 3)))
    assert alarms(report) == []
    assert finding(report, "exploding_signal") is None


def test_two_views_through_one_network_are_no_recurrence() -> None:
    def forward(m: nn.ModuleDict, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = 1e-4 * m["o"](m["e"](a).relu()) + m["o"](m["e"](b).relu())
        return out

    def made() -> Report:
        model = Written(forward, e=nn.Linear(10, 16), o=nn.Linear(16, 3))
        return inspect(model, (torch.randn(32, 10), torch.randn(32, 10)), torch.randint(0, 3, (32,)))

    assert drawn(made).findings == ()


def test_a_recurrence_that_explodes_is_found_and_its_remedy_names_weights_that_exist() -> None:
    def forward(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        state = x
        for _ in range(20):
            state = m["h"](state)
        out: torch.Tensor = m["o"](state)
        return out

    def made(factor: float) -> Report:
        layer = nn.Linear(16, 16, bias=False)
        nn.init.orthogonal_(layer.weight, gain=factor)
        model = Written(forward, h=layer, o=nn.Linear(16, 3))
        return inspect(model, torch.randn(32, 16), torch.randint(0, 3, (32,)), loss="cross_entropy")

    found = finding(drawn(lambda: made(2.0)), "exploding_signal")
    assert found is not None
    assert "multiply the signal by 2 each time: the recurrence is responsible" in found.explanation
    assert found.remedy is not None
    assert found.remedy.action == "add_residual", "the model has no weight_hh"
    assert finding(drawn(lambda: made(1.1)), "exploding_signal") is None


# Sizes that are divided out


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_the_size_of_what_a_normalisation_takes_in_changes_no_verdict(size: float) -> None:
    def made() -> Report:
        first = nn.Linear(16, 32)
        with torch.no_grad():
            first.weight.mul_(size)
            first.bias.mul_(size)
        model = nn.Sequential(first, nn.LayerNorm(32, eps=1e-12), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
        return inspect(model, torch.randn(64, 16), torch.randint(0, 5, (64,)))

    assert drawn(made).findings == ()


# Gates


class Squeezed(nn.Module):
    """A block whose normalisation starts at zero, in front of a squeeze-and-excitation gate."""

    def __init__(self, channels: int, *, is_dead: bool = False) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.n = nn.BatchNorm2d(channels)
        self.r, self.e = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)
        nn.init.zeros_(self.n.weight)
        assert self.r.bias is not None
        nn.init.constant_(self.r.bias, -30.0 if is_dead else 0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        h = self.n(self.a(x))
        result: torch.Tensor = x + h * torch.sigmoid(self.e(functional.relu(self.r(h.mean((2, 3), keepdim=True)))))
        return result


def squeezed(*, is_dead: bool) -> Report:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), Squeezed(16, is_dead=is_dead), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    return inspect(model, torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,)))


def test_a_branch_that_a_zero_normalisation_feeds_is_judged_with_it_opened() -> None:
    report = drawn(lambda: squeezed(is_dead=False))
    assert alarms(report) == []
    behind = finding(report, "zero_gradient")
    assert behind is not None
    assert "`2.n.weight` starts at zero" in behind.message
    assert "judged with the zero weights opened" in behind.explanation


def test_dead_units_behind_a_zero_normalisation_are_still_found() -> None:
    found = finding(drawn(lambda: squeezed(is_dead=True)), "dead_units")
    assert found is not None
    assert found.layers == ("2.r",)


def with_zero_head(body: nn.Sequential) -> Report:
    head = nn.Linear(16, 10)
    nn.init.zeros_(head.weight)
    before = {name: value.clone() for name, value in body.state_dict().items()}
    model = nn.Sequential(*body, head)
    report = inspect(model, torch.randn(64, 16), torch.randint(0, 10, (64,)))
    assert not head.weight.any(), "the gate is closed again"
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
    return report


def test_a_network_with_a_zero_head_gets_a_verdict() -> None:
    def healthy() -> nn.Sequential:
        layers = [nn.Linear(16, 16) for _ in range(3)]
        return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))

    assert drawn(lambda: with_zero_head(healthy())).verdict == "pass"


def test_what_vanishes_behind_a_zero_head_is_found_with_its_cause() -> None:
    found = finding(drawn(lambda: with_zero_head(sigmoids(12))), "vanishing_signal")
    assert found is not None
    assert found.severity == "fail"
    assert found.explanation.startswith("Each sigmoid multiplies the signal by 0.2")


class ClassAttention(nn.Module):
    """Class attention behind a layer scale, the only way from the patches to the loss."""

    def __init__(self, scale: float, width: int = 32) -> None:
        super().__init__()
        self.patches, self.norm = nn.Linear(8, width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.scale = nn.Parameter(scale * torch.ones(width))
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        token = self.token.expand(len(x), -1, -1)
        u = self.norm(torch.cat([token, self.patches(x)], 1))
        logits = self.q(u[:, :1]) @ self.k(u).transpose(1, 2)
        mixed = self.o(torch.softmax(logits / u.shape[-1] ** 0.5, -1) @ self.v(u))
        out: torch.Tensor = self.head(self.last(token + self.scale * mixed))[:, 0]
        return out


@pytest.mark.parametrize("scale", [1e-1, 1e-5])
def test_a_small_layer_scale_on_the_only_way_is_no_vanishing_signal(scale: float) -> None:
    def made() -> Report:
        return inspect(ClassAttention(scale), torch.randn(32, 6, 8), torch.randint(0, 5, (32,)))

    assert alarms(drawn(made)) == []


# Parallel calls


@pytest.mark.parametrize("width", [16, 64])
def test_one_embedding_called_for_queries_keys_and_values_keeps_the_gain_of_its_weights(width: int) -> None:
    def forward(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = m["o"](m["att"](m["emb"](x), m["emb"](x), m["emb"](x))[0]).sum(1) / 6
        return out

    def made() -> Report:
        attention = nn.MultiheadAttention(width, 2, batch_first=True)
        model = Written(forward, emb=nn.Linear(8, width), att=attention, o=nn.Linear(width, 3))
        return inspect(model, torch.randn(16, 6, 8), torch.randint(0, 3, (16,)))

    assert not any(finding(drawn(made, seed), "initialization_mismatch") for seed in range(8))


class ReadAt(nn.Module):
    """A bidirectional layer whose head reads one step, or nothing of the states."""

    def __init__(self, step: int | None) -> None:
        super().__init__()
        self.recurrent = nn.GRU(8, 8, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 3)
        self.step = step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        states = self.recurrent(x)[0]
        output: torch.Tensor = self.head(states[:, self.step] if self.step is not None else (0.0 * states).sum(1))
        return output


def test_a_reverse_direction_that_is_read_after_one_step_is_information() -> None:
    torch.manual_seed(0)
    report = inspect(ReadAt(-1), torch.randn(16, 6, 8), torch.randint(0, 3, (16,)))
    [finding] = [finding for finding in report.findings if finding.rule == "zero_gradient"]
    assert (finding.severity, finding.parameters) == ("info", ("recurrent.weight_hh_l0_reverse",))
    assert finding.operation is not None
    assert finding.operation.reason == "zero_state"


def test_a_recurrent_layer_that_is_cut_off_entirely_still_fails() -> None:
    torch.manual_seed(0)
    report = inspect(ReadAt(None), torch.randn(16, 6, 8), torch.randint(0, 3, (16,)))
    [finding] = [finding for finding in report.findings if finding.rule == "zero_gradient"]
    assert finding.severity == "fail"


@pytest.mark.parametrize("is_traced", [False, True])
def test_positions_of_a_kernel_that_meet_padding_alone_are_information(is_traced: bool) -> None:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(8, 3))
    x = torch.randn(16, 4, 1, 1)
    if is_traced:
        model = traced(model, x)
    report = inspect(model, x, torch.randint(0, 3, (16,)), trial="off")
    [finding] = [finding for finding in report.findings if finding.rule == "zero_gradient"]
    assert finding.severity == "info"
    assert finding.operation is not None
    assert finding.operation.reason == "only_padding"
