"""Local inspections: the same numbers for every form of a model, and a model that is restored."""

import copy
import random
import re
import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

import gradinspect
from gradinspect import inspect
from gradinspect.contracts.optimizers import Sgd
from gradinspect.contracts.problems import InspectionError, ProblemError
from gradinspect.contracts.report.report import ModelReference
from gradinspect.contracts.request.data import ArtifactData
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sources import SpecSource
from gradinspect.contracts.wire.messages import Job
from gradinspect.inspection.local import inspect_job, local_limits
from gradinspect.report.shown import Report

SPEC: dict[str, Any] = {
    "input": {"shape": [6]},
    "layers": [{"type": "Linear", "out_features": 5}, {"type": "Tanh"}, {"type": "Linear", "out_features": 3}],
}


def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def batch(samples: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(4)
    return torch.randn(samples, 6, generator=draws), torch.randint(0, 3, (samples,), generator=draws)


def test_the_returned_report_can_be_printed() -> None:
    report = inspect(model(), *batch())
    assert isinstance(report, Report)
    assert report is not None
    assert isinstance(report, gradinspect.Report)
    assert len(report.layers) == 4
    assert str(report).splitlines()[1].split()[1] == report.verdict.upper()


MODES: dict[str, Callable[[nn.Module], object]] = {
    "training": lambda net: net.train(),
    "evaluation": lambda net: net.eval(),
    "mixed": lambda net: net.train().get_submodule("1").eval(),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("asked", ["train", "eval"])
def test_every_module_keeps_its_mode(name: str, asked: Literal["train", "eval"]) -> None:
    net = model()
    MODES[name](net)
    before = [module.training for module in net.modules()]
    inspect(net, *batch(), mode=asked)
    assert [module.training for module in net.modules()] == before


def test_gradients_stay_the_same_objects_with_the_same_values() -> None:
    net = model()
    kept = []
    for index, parameter in enumerate(net.parameters()):
        parameter.grad = torch.full_like(parameter, float(index)) if index % 2 else None
        kept.append((parameter.grad, None if parameter.grad is None else parameter.grad.clone()))
    inspect(net, *batch())
    for parameter, (object_before, value_before) in zip(net.parameters(), kept, strict=True):
        assert parameter.grad is object_before
        if parameter.grad is not None and value_before is not None:
            assert torch.equal(parameter.grad, value_before)


def test_weights_and_buffers_keep_their_values() -> None:
    net = model()
    before = copy.deepcopy(net.state_dict())
    inspect(net, *batch(), mode="train")
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


class Counting(nn.Module):
    """A module that replaces its buffer by a new tensor at every call."""

    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps = self.steps + 1
        out: torch.Tensor = self.head(x)
        return out


def test_a_buffer_that_the_model_replaces_is_restored() -> None:
    net = Counting()
    before = net.steps
    inspect(net, *batch())
    assert net.steps is before
    assert net.steps.item() == 0


def test_requires_grad_is_restored() -> None:
    net = model()
    net.get_parameter("0.weight").requires_grad_(False)
    before = [parameter.requires_grad for parameter in net.parameters()]
    inspect(net, *batch())
    assert [parameter.requires_grad for parameter in net.parameters()] == before


def hooks_of(net: nn.Module) -> list[int]:
    counts = []
    for module in net.modules():
        counts += [len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)]
    for parameter in net.parameters():
        counts += [len(parameter._backward_hooks or ()), len(parameter._post_accumulate_grad_hooks or ())]
    return counts


def test_the_callers_hooks_remain_and_ours_are_removed() -> None:
    net = model()
    seen: list[str] = []
    net[0].register_forward_hook(lambda *_: seen.append("forward"))
    net.get_parameter("0.weight").register_hook(lambda _: seen.append("backward"))
    before = hooks_of(net)
    inspect(net, *batch())
    assert hooks_of(net) == before
    seen.clear()
    nn.functional.cross_entropy(net(batch()[0]), batch()[1]).backward()
    assert seen == ["forward", "backward"]


def test_random_states_are_restored() -> None:
    class Restless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(x) * (random.random() + float(np.random.random())) * torch.rand(())
            return out

    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = (torch.rand(3), random.random(), np.random.random())
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    net = Restless.__new__(Restless)
    with torch.random.fork_rng():
        Restless.__init__(net)
    inspect(net, *batch())
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.random()) == expected[1:]


def test_an_input_that_requires_a_gradient_gets_none() -> None:
    inputs, targets = batch()
    inputs.requires_grad_(True)
    inspect(model(), inputs, targets)
    assert inputs.grad is None


def test_the_model_is_restored_when_inspecting_fails() -> None:
    net = model().eval()
    weight = net.get_parameter("0.weight")
    weight.grad = torch.ones_like(weight)
    before = hooks_of(net)
    with pytest.raises(InspectionError):
        inspect(net, torch.randn(4, 7), batch(4)[1])
    assert hooks_of(net) == before
    assert not net.training
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_every_section_restores_the_model() -> None:
    net = model()
    weight = net.get_parameter("0.weight")
    weight.grad = torch.ones_like(weight)
    before, hooks = copy.deepcopy(net.state_dict()), hooks_of(net)
    kept = list(net.parameters())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    report = inspect(
        net, *batch(64), optimizer={"type": "sgd", "lr": 0.1},
        diagnostics=("gradients", "signals", "noise", "curvature", "jacobian", "training_trace"),
        lr_scales={"probe_steps": 10, "seeds": 1},
    )  # fmt: skip
    assert report.curvature is not None
    assert report.lr_scales is not None
    assert torch.equal(torch.rand(3), expected)
    after = net.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [a is b for a, b in zip(net.parameters(), kept, strict=True)] == [True] * len(kept)
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert [parameter.grad is None for parameter in net.parameters()] == [False] + [True] * (len(kept) - 1)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.training
    assert hooks_of(net) == hooks


def numbers(report: Report) -> list[float | None]:
    return [
        *(row.signal.norm if row.signal is not None else None for row in report.layers),
        *(row.grad_norm for row in report.parameters),
        report.summary.loss,
    ]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_eager_scripted_and_traced_models_give_the_same_numbers() -> None:
    net = model()
    dropout = net[3]
    assert isinstance(dropout, nn.Dropout)
    dropout.p = 0.0  # a traced dropout draws at another place of the random stream
    net.eval()  # tracing checks the trace, which training-mode BatchNorm would change
    inputs, targets = batch()
    eager = inspect(net, inputs, targets, mode="eval")
    scripted = inspect(torch.jit.script(net), inputs, targets, mode="eval")
    traced = inspect(torch.jit.trace(net, inputs), inputs, targets, mode="eval")
    # float32, sums over at most 128 terms: 128 · 2⁻²⁴ relative.
    assert numbers(scripted) == pytest.approx(numbers(eager), rel=128 * 2**-24)
    assert numbers(traced) == pytest.approx(numbers(eager), rel=128 * 2**-24)
    assert (eager.model.kind, scripted.model.kind, traced.model.kind) == ("module", "torchscript", "torchscript")


def test_a_spec_needs_no_inputs_and_one_seed_gives_one_report() -> None:
    first, second = inspect(SPEC, seed=5), inspect(SPEC, seed=5)
    assert numbers(first) == numbers(second)
    assert numbers(first) != numbers(inspect(SPEC, seed=6))
    assert first.model.kind == "spec"


def test_a_spec_takes_the_callers_inputs_and_targets() -> None:
    inputs, targets = batch()
    report = inspect(SPEC, inputs, targets)
    assert not report.environment.synthetic_data
    assert report.environment.data_digest == inspect(SPEC, inputs, targets, seed=9).environment.data_digest


def test_a_preset_is_taken_as_a_spec() -> None:
    report = inspect({"preset": "mlp", "depth": 3, "width": 8, "input": {"shape": [6]}, "num_classes": 3})
    assert [row.kind for row in report.layers] == ["Linear"] * 4


def test_a_callable_is_a_loss() -> None:
    inputs, targets = batch()
    net = model().eval()

    def own_loss(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return nn.functional.cross_entropy(output, target)

    own = inspect(net, inputs, targets, loss=own_loss, mode="eval")
    assert numbers(own) == numbers(inspect(net, inputs, targets, mode="eval"))


def test_a_wrong_spec_names_the_field() -> None:
    spec = {"input": {"shape": [6]}, "layers": [{"type": "Linear", "out_features": -1}]}
    with pytest.raises(ProblemError) as caught:
        inspect(spec)
    assert caught.value.code == "invalid_spec"
    assert caught.value.errors[0].pointer == "/layers/0/out_features"


def test_a_wrong_argument_names_the_field() -> None:
    with pytest.raises(ProblemError) as caught:
        inspect(model(), *batch(), optimizer={"type": "sgd", "lr": -1})
    assert caught.value.errors[0].pointer == "/optimizer/lr"


def test_a_module_without_inputs_is_refused() -> None:
    with pytest.raises(TypeError, match="needs inputs"):
        inspect(model())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            lambda: (model(), batch()[0].numpy()),
            "inputs is numpy.ndarray; torch.from_numpy(inputs) makes a tensor of it",
        ),
        (lambda: (model(), {"x": batch()[0]}), "inputs is dict; give a tensor (batch, …), or a sequence of tensors"),
        (lambda: (model(), [batch()[0], 3]), r"inputs[1] is int; give a tensor"),
        (lambda: (model(), "batch"), "inputs is str; give a tensor"),
        (lambda: (model(), batch()[0], batch()[1].tolist()), "targets is list; give a tensor"),
        (lambda: (model().state_dict(), *batch()), "model is collections.OrderedDict of tensors; give the nn.Module"),
        (lambda: ("model.pt", *batch()), "model is str; give an nn.Module"),
        (lambda: (None,), "model is NoneType; give an nn.Module"),
    ],
)
def test_an_argument_of_another_type_is_refused_with_advice(
    arguments: Callable[[], tuple[Any, ...]], says: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        inspect(*arguments())


def test_an_optimizer_that_is_neither_torchs_nor_a_dict_is_refused_with_advice() -> None:
    optimizer: Any = "sgd"
    says = 'optimizer is str; give a torch optimizer, or a dict: {"type": "sgd"'
    with pytest.raises(TypeError, match=re.escape(says)):
        inspect(model(), *batch(), optimizer=optimizer)


def test_an_optimizer_object_declares_its_settings_and_is_left_as_it_was() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.25, momentum=0.9)
    report = inspect(net, *batch(), optimizer=optimizer)
    assert report.optimizer == Sgd(type="sgd", lr=0.25, momentum=0.9)
    assert report.setup is not None
    assert report.setup.optimizer is not None
    assert [group.lr for group in report.setup.optimizer.groups] == [0.25]
    assert not report.setup.optimizer.missing
    assert not optimizer.state


def test_an_optimizer_of_another_class_is_read_for_what_it_holds() -> None:
    net = model()
    names = [name for name, _ in net.named_parameters()]
    optimizer = torch.optim.RMSprop(list(net.parameters())[1:])
    report = inspect(net, *batch(), optimizer=optimizer)
    assert report.optimizer is None
    finding = next(found for found in report.findings if found.rule == "optimizer_misses_parameter")
    assert finding.parameters == (names[0],)


def test_an_optimizer_of_another_model_holds_none_of_the_parameters() -> None:
    stale = torch.optim.SGD(model().parameters(), lr=0.1)
    report = inspect(model(), *batch(), optimizer=stale)
    finding = next(found for found in report.findings if found.rule == "optimizer_misses_parameter")
    assert "holds none of the model's parameters" in finding.message


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ProblemError, match="strict"):
        inspect(SPEC, policy="strict")


def test_a_failed_allocation_is_a_memory_limit() -> None:
    net = nn.Sequential(nn.Linear(6, 3))
    net.register_forward_hook(lambda *_: torch.empty(2**60))
    with pytest.raises(InspectionError) as caught:
        inspect(net, *batch())
    assert caught.value.code == "memory_limit"


def test_a_local_job_restores_torchs_number_of_threads() -> None:
    job = Job(
        source=SpecSource(spec=gradinspect_spec()),
        settings=InspectionSettings(),
        limits=local_limits().model_copy(update={"threads": 1}),
    )
    threads = torch.get_num_threads()
    stages: list[tuple[str, float]] = []
    report = inspect_job(
        job, model=ModelReference(kind="spec", name="net"), progress=lambda stage, done: stages.append((stage, done))
    )
    assert torch.get_num_threads() == threads
    assert report.model.name == "net"
    assert report.environment.confinement == "none"
    assert [done for _, done in stages] == sorted(done for _, done in stages)


def gradinspect_spec() -> Any:
    from gradinspect.contracts.document import from_python
    from gradinspect.contracts.spec.model_spec import ModelSpec

    return from_python(ModelSpec, SPEC)


def test_a_job_reads_its_batch_from_safetensors() -> None:
    from safetensors.torch import save

    inputs, targets = batch()
    settings = InspectionSettings(data=ArtifactData(artifact="sha256:" + "0" * 64, inputs=("x",), target="y"))
    job = Job(source=SpecSource(spec=gradinspect_spec()), settings=settings, limits=local_limits())
    report = inspect_job(job, data_bytes=save({"x": inputs, "y": targets}), model=ModelReference(kind="spec"))
    assert numbers(report) == numbers(inspect(SPEC, inputs, targets))


def test_without_torch_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gradinspect.inspection.local")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'gradinspect\[engine\]'"):
        _ = gradinspect.inspect


def test_a_spec_is_averaged_over_seeds() -> None:
    report = inspect(SPEC, seeds=3)
    assert report.spread is not None
    assert report.spread.seeds == 3
    assert report.summary.loss == pytest.approx(
        sum(inspect(SPEC, *drawn_batch(), seed=seed).summary.loss or 0.0 for seed in range(3)) / 3
    )


def drawn_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the batch of a spec's inspection from seed 0."""
    from gradinspect.contracts.document import from_python
    from gradinspect.contracts.spec.model_spec import ModelSpec
    from gradinspect.engine.network.batch import make_batch

    spec = from_python(ModelSpec, SPEC)
    drawn = make_batch(
        None, None, sample_input=spec.input, vocabulary=None, loss="cross_entropy", dtype=torch.float32,
        device=torch.device("cpu"), seed=0,
    )  # fmt: skip
    target = drawn.target_for(torch.zeros(128, 3))
    assert target is not None
    return drawn.inputs[0], target


def test_the_seeds_of_a_module_are_parts_of_its_batch() -> None:
    net, (x, y) = nn.Linear(6, 3), batch(16)
    halves = [inspect(net, x[:8], y[:8]), inspect(net, x[8:], y[8:])]
    both = inspect(net, x, y, seeds=2)
    assert both.summary.loss == pytest.approx(sum(half.summary.loss or 0.0 for half in halves) / 2, rel=1e-6)
    with pytest.raises(InspectionError, match="seeds is 5, but the batch holds 4 samples"):
        inspect(net, x[:4], y[:4], seeds=5)


def test_a_time_limit_leaves_sections_out_by_name() -> None:
    report = inspect(model(), *batch(), diagnostics=["noise"], time_limit=0.0)
    assert report.noise is not None
    assert str(report.noise.reason).startswith("budget: needs about ")


def test_progress_reaches_the_caller() -> None:
    seen: list[tuple[str, float]] = []
    inspect(model(), *batch(), progress=lambda stage, fraction: seen.append((stage, fraction)))
    assert [stage for stage, _ in seen][-1] == "report"
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
