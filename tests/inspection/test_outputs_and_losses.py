"""Callable losses receive what the model returned; the caller's tensors keep their identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradinspect
from gradinspect.contracts.problems import InspectionError
from tests.support.networks.inspected import random

X = random(32, 8).float()
Y = torch.arange(32) % 3


@dataclass
class Heads:
    """What a model with two heads returns."""

    main: torch.Tensor
    aux: torch.Tensor


FORMS: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], Any], Callable[[Any], tuple[Any, Any]]]] = {
    "tuple": (lambda main, aux: (main, aux), lambda output: (output[0], output[1])),
    "dict": (lambda main, aux: {"main": main, "aux": aux}, lambda output: (output["main"], output["aux"])),
    "nested": (lambda main, aux: {"heads": [main, {"aux": aux}]}, lambda o: (o["heads"][0], o["heads"][1]["aux"])),
    "dataclass": (Heads, lambda output: (output.main, output.aux)),
}


class TwoHeads(nn.Module):
    """A body and two heads, returned in some form."""

    def __init__(self, form: str = "dict") -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body, self.head, self.other = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(16, 5)
        self._form = FORMS[form][0]

    def forward(self, x: torch.Tensor) -> Any:
        h = self.body(x).relu()  # (batch, 16)
        return self._form(self.head(h), self.other(h))


def norms(report: gradinspect.Report) -> dict[str, float | None]:
    return {row.name: row.grad_norm for row in report.parameters}


@pytest.mark.parametrize("form", FORMS)
def test_a_callable_loss_receives_what_the_model_returned(form: str) -> None:
    model, read = TwoHeads(form), FORMS[form][1]

    def loss(output: Any, target: Any) -> torch.Tensor:
        main, aux = read(output)
        value: torch.Tensor = functional.cross_entropy(main, target) + aux.square().mean()
        return value

    report = gradinspect.inspect(model, X, Y, loss=loss)
    model.zero_grad()
    loss(model(X), Y).backward()
    expected = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert norms(report) == pytest.approx(expected, rel=1e-5)
    assert all(check.status != "failed" for check in report.self_checks)


def test_a_callable_loss_may_take_nested_targets() -> None:
    targets = {"classes": Y, "sizes": [torch.zeros(32, 5)]}

    def loss(output: Any, target: Any) -> torch.Tensor:
        classes = functional.cross_entropy(output["main"], target["classes"])
        return classes + functional.mse_loss(output["aux"], target["sizes"][0])

    report = gradinspect.inspect(TwoHeads(), X, targets, loss=loss, seeds=2)
    assert report.summary.loss is not None
    assert {row.status for row in report.parameters} == {"trained"}


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda output: output["main"], r"returned float32\[32, 3\], not one real number"),
        (lambda _output: None, "returned NoneType"),
        (lambda _output: {}, "an empty dict"),
        (lambda output: {"main": output["main"].mean(), "aux": 1.0}, "returned float as 'aux'"),
    ],
)
def test_a_loss_that_returns_no_scalar_is_refused_with_what_it_returned(
    returned: Callable[[Any], Any], words: str
) -> None:
    with pytest.raises(InspectionError, match=words) as caught:
        gradinspect.inspect(TwoHeads(), X, Y, loss=lambda output, _target: returned(output))
    assert caught.value.code == "model_error"


def test_the_sum_of_named_terms_is_the_loss() -> None:
    def both(output: Any, target: Any) -> dict[str, torch.Tensor]:
        return {"classes": functional.cross_entropy(output["main"], target), "size": output["aux"].square().mean()}

    def summed(output: Any, target: Any) -> torch.Tensor:
        return torch.stack([*both(output, target).values()]).sum()

    terms = gradinspect.inspect(TwoHeads(), X, Y, loss=both)
    total = gradinspect.inspect(TwoHeads(), X, Y, loss=summed)
    assert terms.summary.loss == total.summary.loss
    assert norms(terms) == norms(total)


def test_a_loss_may_differentiate_by_the_callers_own_input() -> None:
    x = torch.linspace(0, 1, 16).unsqueeze(1).requires_grad_()
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(output: torch.Tensor, _target: Any) -> torch.Tensor:
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return (slope - output).square().mean()

    x.grad = torch.ones_like(x)
    report = gradinspect.inspect(model, x, x.detach(), loss=loss)
    assert report.summary.loss == pytest.approx(loss(model(x), None).item(), rel=1e-6)
    assert x.grad.eq(1).all()  # the caller's own gradient is left as it was


def test_the_graph_of_an_input_that_was_computed_is_left_alone() -> None:
    weight = torch.ones(8, requires_grad=True)
    x = (X * weight).square()
    gradinspect.inspect(nn.Linear(8, 3), x, Y)
    x.sum().backward()
    assert weight.grad is not None


def test_sections_that_differentiate_one_output_say_that_the_loss_reads_several() -> None:
    report = gradinspect.inspect(
        TwoHeads(), X, Y, loss=lambda output, target: functional.cross_entropy(output["main"], target),
        diagnostics=["noise", "curvature", "jacobian"],
    )  # fmt: skip
    assert report.noise is not None
    assert report.noise.status == "undetermined"
    assert "reads several outputs" in (report.noise.reason or "")
    assert report.curvature is not None
    assert report.curvature.status == "measured"


def both_heads(output: Any, target: Any) -> dict[str, torch.Tensor]:
    return {"classes": functional.cross_entropy(output["main"], target), "size": 100 * output["aux"].square().mean()}


def test_the_report_names_the_outputs_that_the_loss_reads_and_the_parameters_of_the_others() -> None:
    report = gradinspect.inspect(TwoHeads(), X, Y)
    assert report.outputs is not None
    assert (report.outputs.used, report.outputs.unused) == (("main",), ("aux",))
    status = {row.name: row.status for row in report.parameters}
    assert status == {
        "body.weight": "trained", "body.bias": "trained", "head.weight": "trained", "head.bias": "trained",
        "other.weight": "not_in_loss", "other.bias": "not_in_loss",
    }  # fmt: skip
    assert "unused_parameter" not in {finding.rule for finding in report.findings}
    assert "Outputs" in str(report)


def test_a_layer_that_feeds_no_output_is_still_unused() -> None:
    model = TwoHeads()
    model.forgotten = nn.Linear(16, 2)
    report = gradinspect.inspect(model, X, Y, loss=both_heads)
    assert [row.name for row in report.parameters if row.status == "unused"] == ["forgotten.weight", "forgotten.bias"]
    assert "unused_parameter" in {finding.rule for finding in report.findings}


class Features(nn.Module):
    """A hidden layer that is also an output, as dense features often are."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.body(x).relu()  # (batch, 16)
        return h, self.head(h)


def test_an_output_on_the_way_to_another_is_read_only_where_the_loss_itself_reads_it() -> None:
    last = gradinspect.inspect(
        Features(), X, Y, loss=lambda output, target: functional.cross_entropy(output[1], target)
    )
    assert last.outputs is not None
    assert (last.outputs.used, last.outputs.unused) == (("1",), ("0",))
    first = gradinspect.inspect(Features(), X, Y, loss=lambda output, _target: output[0].square().mean())
    assert first.outputs is not None
    assert (first.outputs.used, first.outputs.unused) == (("0",), ("1",))
    assert {row.name for row in first.parameters if row.status == "not_in_loss"} == {"head.weight", "head.bias"}


def test_an_output_that_the_loss_detaches_is_not_read() -> None:
    report = gradinspect.inspect(
        TwoHeads(), X, Y,
        loss=lambda o, t: functional.cross_entropy(o["main"], t) + o["aux"].detach().square().mean(),
    )  # fmt: skip
    assert report.outputs is not None
    assert report.outputs.unused == ("aux",)


def test_each_term_has_the_gradient_norm_and_cosine_of_plain_autograd() -> None:
    model = TwoHeads()
    report = gradinspect.inspect(model, X, Y, loss=both_heads)
    parameters = list(model.parameters())
    terms = both_heads(model(X), Y)
    flat = {}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
        flat[name] = torch.cat([gradient.flatten() for gradient in gradients])
    cosine = functional.cosine_similarity(flat["classes"], flat["size"], dim=0).item()
    assert [term.name for term in report.losses] == ["classes", "size"]
    for row in report.losses:
        assert row.value == pytest.approx(terms[row.name].item(), rel=1e-5)
        assert row.grad_norm == pytest.approx(flat[row.name].norm().item(), rel=1e-5)
        assert row.cosine == pytest.approx(cosine, abs=1e-5)
    body = {term.name: {row.layer: row for row in term.layers}["body"] for term in report.losses}
    assert body["classes"].grad_norm == pytest.approx(flat["classes"][: 8 * 16 + 16].norm().item(), rel=1e-5)
    assert body["classes"].cosine == pytest.approx(body["size"].cosine, rel=1e-9)
    assert {row.layer for row in report.losses[0].layers} == {"body", "head"}
    assert "Loss terms" in str(report)


def test_a_loss_of_one_term_has_no_terms_to_compare() -> None:
    report = gradinspect.inspect(nn.Linear(8, 3), X, Y)
    assert report.losses == ()
    assert report.outputs is not None
    assert (report.outputs.used, report.outputs.unused) == (("output",), ())
