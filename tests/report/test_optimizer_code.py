"""Parameter groups, as objects and as source that is run: every tensor once, at the rate that its scale says."""

from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.optimizers import Adam, AdamW, Optimizer, Sgd
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.optimizer_code import optimizer_code
from gradinspect.contracts.report.sections import LrScales, ScaleGroup
from gradinspect.report.shown import Report
from gradinspect.testing.measurements import chain
from tests.support.sample_reports import judged, scales


class Tied(nn.Module):
    """An output layer that shares the embedding's weight, a frozen layer, and a bias outside of all groups."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.tokens.weight
        self.body.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(self.tokens(x)))
        return out


def suggestion(**named: float) -> LrScales:
    parameters = {
        name: (f"{name}.weight",) if name == "tokens" else (f"{name}.weight", f"{name}.bias") for name in named
    }
    groups = tuple(ScaleGroup(layer=name, parameters=parameters[name], scale=scale) for name, scale in named.items())
    return LrScales(verdict="use", method="newton", base_lr=0.5, groups=groups)


def run(source: str, model: nn.Module) -> torch.optim.Optimizer:
    names: dict[str, Any] = {"model": model}
    exec(source, names)
    optimizer = names["optimizer"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def rates(groups: list[dict[str, Any]], model: nn.Module) -> dict[str, float]:
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    return {names[id(tensor)]: group["lr"] for group in groups for tensor in group["params"]}


EXPECTED = {"tokens.weight": 1.0, "body.weight": 0.125, "body.bias": 0.125, "head.bias": 0.5}


def test_the_source_runs_and_every_tensor_is_in_one_group() -> None:
    model = Tied()
    optimizer = run(optimizer_code(suggestion(tokens=2.0, body=0.25)), model)
    assert rates(optimizer.param_groups, model) == pytest.approx(EXPECTED)
    listed = [id(tensor) for group in optimizer.param_groups for tensor in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(model.parameters()))


def test_param_groups_are_the_same_groups() -> None:
    model = Tied()
    report = Report.of(judged(chain(lr_scales=suggestion(tokens=2.0, body=0.25))))
    groups = report.param_groups(model, base_lr=0.5)
    assert rates(groups, model) == pytest.approx(EXPECTED)
    assert isinstance(torch.optim.AdamW(groups), torch.optim.Optimizer)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_tied_weight_that_torchscript_keeps_twice_steps_at_one_rate(tmp_path: Any) -> None:
    torch.jit.save(torch.jit.script(Tied()), tmp_path / "tied.pt")
    model = torch.jit.load(tmp_path / "tied.pt")
    named = dict(model.named_parameters(remove_duplicate=False))
    assert named["tokens.weight"].data_ptr() == named["head.weight"].data_ptr()
    report = Report.of(judged(chain(lr_scales=suggestion(tokens=2.0, body=0.25))))
    for groups in (report.param_groups(model, base_lr=0.5),
                   run(optimizer_code(suggestion(tokens=2.0, body=0.25)), model).param_groups):  # fmt: skip
        of = {tensor.data_ptr(): group["lr"] for group in groups for tensor in group["params"]}
        assert of[named["head.weight"].data_ptr()] == 1.0
        assert {t.data_ptr() for t in model.parameters()} == set(of)


def test_one_step_moves_each_layer_by_its_scale() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    groups = tuple(
        ScaleGroup(layer=n, parameters=(f"{n}.weight", f"{n}.bias"), scale=s) for n, s in (("0", 4.0), ("1", 0.5))
    )
    optimizer = run(optimizer_code(LrScales(verdict="use", base_lr=0.1, groups=groups)), model)
    model(torch.randn(5, 3)).square().mean().backward()
    expected = [p.detach() - 0.1 * s * p.grad for p, s in zip(model.parameters(), (4.0, 4.0, 0.5, 0.5), strict=True)
                if p.grad is not None]  # fmt: skip
    optimizer.step()
    assert all(torch.allclose(p, e) for p, e in zip(model.parameters(), expected, strict=True))


@pytest.mark.parametrize(
    ("optimizer", "kind", "options"),
    [
        (None, torch.optim.SGD, {"momentum": 0}),
        (Sgd(type="sgd", lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.01), torch.optim.SGD,
         {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        (Adam(type="adam", betas=(0.8, 0.99), eps=1e-6), torch.optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-6}),
        (AdamW(type="adamw", weight_decay=0.1), torch.optim.AdamW, {"weight_decay": 0.1}),
    ],
)  # fmt: skip
def test_the_declared_optimizer_is_the_one_that_is_built(
    optimizer: Optimizer | None, kind: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    made = run(
        optimizer_code(scales(), optimizer=optimizer), nn.ModuleDict({str(i): nn.Linear(2, 2) for i in range(6)})
    )
    assert type(made) is kind
    assert all({name: group[name] for name in options} == options for group in made.param_groups)


def test_the_base_rate_is_given_suggested_or_declared_in_this_order() -> None:
    model = nn.ModuleDict({str(i): nn.Linear(2, 2) for i in range(6)})
    declared = Sgd(type="sgd", lr=0.7)
    without = scales(base_lr=None)
    for source, rate in (
        (optimizer_code(scales(), optimizer=declared, base_lr=0.01), 0.01),
        (optimizer_code(scales(), optimizer=declared), 0.03),
        (optimizer_code(without, optimizer=declared), 0.7),
    ):
        assert run(source, model).param_groups[0]["lr"] == pytest.approx(rate * 32)


@pytest.mark.parametrize("verdict", ["keep_uniform", "inconclusive_plateau", "none_learns"])
def test_an_answer_that_is_not_to_use_them_builds_one_group(verdict: Any) -> None:
    model = nn.ModuleDict({str(i): nn.Linear(2, 2) for i in range(6)})
    made = run(optimizer_code(scales(verdict=verdict)), model)
    assert [group["lr"] for group in made.param_groups] == [0.03]
    report = Report.of(judged(chain(lr_scales=scales(verdict=verdict))))
    assert [group["lr"] for group in report.param_groups(model, 0.03)] == [0.03]


def test_names_are_data_in_the_source() -> None:
    name = '"]); raise SystemExit #\n\\'
    model = nn.Sequential(nn.Linear(2, 2))
    holder = nn.Module()
    holder.register_module("inner", model)
    groups = (ScaleGroup(layer="x", parameters=(name,), scale=2.0),)
    with pytest.raises(KeyError) as caught:
        run(optimizer_code(LrScales(verdict="use", base_lr=0.1, groups=groups)), holder)
    assert caught.value.args == (name,)


def test_a_model_without_the_named_parameter_is_told_so() -> None:
    report = Report.of(judged(chain(lr_scales=suggestion(tokens=2.0, body=0.25))))
    with pytest.raises(ProblemError, match=r"no parameter 'tokens\.weight'"):
        report.param_groups(nn.Linear(2, 2), 0.1)


@pytest.mark.parametrize("found", [None, LrScales(status="undetermined", reason="the probe ran out of time")])
def test_a_report_without_a_suggestion_says_so(found: LrScales | None) -> None:
    report = Report.of(judged(chain(lr_scales=found)))
    with pytest.raises(ProblemError) as caught:
        report.param_groups(nn.Linear(2, 2), 0.1)
    assert caught.value.code == "not_requested"
    with pytest.raises(ProblemError):
        report.optimizer_code()
