"""An exported program computes what the original computes, to the last bit, under the original's names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from gradinspect import inspect
from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.network.exported.samples import draw_inputs
from tests.support.exported_files import altered, exported_files, model_of, node_of
from tests.support.networks.exported_models import EXPORTED


def results(model: nn.Module, name: str) -> list[torch.Tensor]:
    """Run a model on its example and leave a gradient that depends on every element of every result."""
    positional, keywords = EXPORTED[name].example()
    torch.manual_seed(5)
    tensors = [leaf for leaf in tree_leaves(model(*positional, **keywords)) if isinstance(leaf, torch.Tensor)]
    total = sum((tensor * torch.linspace(-1, 2, tensor.numel()).view(tensor.shape)).sum() for tensor in tensors)
    assert isinstance(total, torch.Tensor)
    total.backward()
    return tensors


@pytest.mark.parametrize("name", EXPORTED)
def test_outputs_gradients_and_buffers_are_those_of_the_original(name: str) -> None:
    original, exported = EXPORTED[name].model(), model_of(exported_files()[name])
    for first, second in zip(results(original, name), results(exported, name), strict=True):
        assert torch.equal(first, second)
    named = dict(original.named_parameters(remove_duplicate=False))
    found = dict(exported.named_parameters(remove_duplicate=False))
    assert list(named) == list(found)
    for path, parameter in named.items():
        assert parameter.requires_grad == found[path].requires_grad
        gradient, other = parameter.grad, found[path].grad
        assert (gradient is None) == (other is None)
        assert gradient is None or (other is not None and torch.equal(gradient, other))
    for path, buffer in original.named_buffers():
        assert torch.equal(buffer, exported.get_buffer(path))


@pytest.mark.parametrize("name", sorted(EXPORTED.keys() - {"structured"}))  # whose arguments are no tensors
def test_the_report_has_the_rows_of_the_original(name: str) -> None:
    case = EXPORTED[name]
    positional, _ = case.example()
    asked: dict[str, Any] = {"loss": "output_mean", "optimizer": {"type": "sgd", "lr": 0.1}}
    expected = inspect(case.model(), *positional, mode="eval" if case.mode == "eval" else "train", **asked)
    report = inspect(model_of(exported_files()[name]), *positional, **asked)
    for part in ("summary", "layers", "parameters", "findings", "depth_decay", "outputs"):
        assert getattr(report, part) == getattr(expected, part), part
    assert (report.model.kind, report.model.name) == ("exported", type(case.model()).__name__)
    assert report.environment.mode == case.mode


def test_a_tied_weight_is_one_parameter() -> None:
    model = model_of(exported_files()["tied"])
    assert model.get_parameter("head.weight") is model.get_parameter("embedding.weight")


def test_arguments_are_taken_in_their_structure_or_one_after_another() -> None:
    model = model_of(exported_files()["structured"])
    positional, keywords = EXPORTED["structured"].example()
    by_structure = model(*positional, **keywords)
    one_after_another = model(positional[0]["a"], positional[0]["b"], keywords["mask"])
    assert torch.equal(by_structure["logits"], one_after_another["logits"])
    assert list(by_structure) == ["logits", "hidden"]
    assert isinstance(by_structure["hidden"], list)
    with pytest.raises(InspectionError, match=r"exported with 3 tensors \(batch.a, batch.b, mask\), and is given 1"):
        model(positional[0]["a"])


def test_a_dynamic_axis_takes_other_sizes_within_its_range() -> None:
    model = model_of(exported_files()["mlp_dynamic"])
    assert model(torch.randn(64, 6)).shape == (64, 3)
    with pytest.raises(InspectionError, match=r"'input' has the shape \[65, 6\].* with s\d+ from 2 to 64"):
        model(torch.randn(65, 6))
    with pytest.raises(InspectionError, match=r"has the shape \[4, 7\]"):
        model(torch.randn(4, 7))


def test_a_size_that_is_an_expression_is_checked() -> None:
    model = model_of(exported_files()["regions"])
    assert model(torch.randn(6, 4)).shape == (6, 3)
    with pytest.raises(InspectionError, match=r"has the shape \[5, 4\]; the program was exported for \[2\*s\d+, 4\]"):
        model(torch.randn(5, 4))


def test_a_fixed_shape_says_how_to_export_another() -> None:
    model = model_of(exported_files()["mlp"])
    with pytest.raises(InspectionError, match=r"exported for \[4, 6\]; export it with dynamic_shapes") as caught:
        model(torch.randn(8, 6))
    assert caught.value.code == "data_mismatch"
    with pytest.raises(InspectionError, match="is float64; the program was exported for float32"):
        model(torch.randn(4, 6, dtype=torch.float64))


def test_the_other_mode_is_refused_with_a_reason() -> None:
    model = model_of(exported_files()["conv_eval"])
    x = torch.randn(4, 3, 6, 6)
    assert inspect(model, x, loss="output_mean", mode="eval").environment.mode == "eval"
    with pytest.raises(InspectionError, match=r"was exported in eval mode.*model\.train"):
        inspect(model, x, loss="output_mean", mode="train")


@pytest.mark.parametrize("name", ["tagger", "conv", "attention", "counting"])
def test_a_float64_copy_computes_in_float64(name: str) -> None:
    model = copy.deepcopy(model_of(exported_files()[name])).double()
    positional, _ = EXPORTED[name].example()
    inputs = [tensor.double() if tensor.is_floating_point() else tensor for tensor in positional]
    assert model(*inputs).dtype == torch.float64


def test_a_copy_shares_the_program_and_no_tensor() -> None:
    model = model_of(exported_files()["conv"])
    other = copy.deepcopy(model)
    assert other.program is model.program
    with torch.no_grad():
        other.get_parameter("head.bias").fill_(7.0)
    x = torch.randn(4, 3, 6, 6)
    assert not torch.equal(model(x), other(x))
    other.load_state_dict(model.state_dict())


def test_a_model_is_left_as_it_was() -> None:
    model = model_of(exported_files()["counting"])
    before = copy.deepcopy(dict(model.named_buffers()))
    inspect(model, torch.randn(5, 4), loss="output_mean")
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])


def test_inputs_are_drawn_as_the_program_declares_them() -> None:
    draws = torch.Generator().manual_seed(0)
    (tokens,) = draw_inputs(model_of(exported_files()["tagger"]).program, 16, draws)
    assert tokens.shape == (16, 5)
    assert tokens.dtype == torch.int64
    assert int(tokens.max()) == 10  # the embedding has 11 rows
    (x,) = draw_inputs(model_of(exported_files()["mlp_dynamic"]).program, None, draws)
    assert x.shape == (64, 6)  # 128, but for the range
    (x,) = draw_inputs(model_of(exported_files()["mlp"]).program, None, draws)
    assert x.shape == (4, 6)
    with pytest.raises(InspectionError, match=r"8 samples were asked for.*dynamic_shapes"):
        draw_inputs(model_of(exported_files()["mlp"]).program, 8, draws)
    a, b, mask = draw_inputs(model_of(exported_files()["structured"]).program, None, draws)
    assert (a.shape, b.shape, mask.shape) == ((4, 4), (4, 3), (4,))


def test_an_error_names_the_line_of_the_author() -> None:
    model = model_of(altered(exported_files()["regions"], _reshape_wrongly))
    with pytest.raises(InspectionError) as caught:
        inspect(model, torch.randn(4, 4), loss="output_mean")
    assert caught.value.code in ("model_error", "data_mismatch")
    assert "exported_models.py, line " in caught.value.detail
    assert "return self.second(h.reshape(count * 2, -1)" in caught.value.detail


def _reshape_wrongly(document: Any) -> None:
    node = node_of(document, "torch.ops.aten.reshape.default")
    node["inputs"][1]["arg"] = {"as_ints": [3, 7]}


def test_a_fault_names_the_operation_with_its_line() -> None:
    model = model_of(exported_files()["mlp"])
    with torch.no_grad():
        model.get_parameter("2.weight").fill_(3e38)
    report = inspect(model, torch.randn(4, 6), loss="output_mean")
    faults = [fault.operation for fault in report.faults]
    assert faults
    assert faults[0].module == "2"
    assert faults[0].source is None  # every line of a Sequential is torch's


def test_an_operator_that_torch_does_not_have_is_named() -> None:
    def other(document: Any) -> None:
        node_of(document, "torch.ops.aten.linear.default")["target"] = "torch.ops.aten.linear.nowhere"

    with pytest.raises(InspectionError, match=r"node 'linear': the operator aten\.linear\.nowhere") as caught:
        model_of(altered(exported_files()["mlp"], other))
    assert caught.value.code == "unsupported_operator"


def test_an_argument_that_an_operator_does_not_have_is_named() -> None:
    def other(document: Any) -> None:
        node_of(document, "torch.ops.aten.linear.default")["inputs"][2]["name"] = "elsewhere"

    with pytest.raises(InspectionError, match=r"aten\.linear\.default has no argument 'elsewhere'"):
        model_of(altered(exported_files()["mlp"], other))


def test_values_are_dropped_after_their_last_use() -> None:
    steps = model_of(exported_files()["mlp"])._shared.graph.steps
    dropped = [name for step in steps for name in step.forgets]
    assert {"linear", "sigmoid"} <= set(dropped)
    assert not {name for output in graph_outputs("mlp") for name in output} & set(dropped)


def graph_outputs(name: str) -> list[list[str]]:
    program = model_of(exported_files()[name]).program
    return [[getattr(output, "name", "")] for output in program.graph.outputs]


@pytest.mark.parametrize("diagnostics", [("gradients", "noise"), ("gradients", "curvature", "jacobian")])
def test_sections_that_change_the_batch_are_computed_or_give_a_reason(diagnostics: Any) -> None:
    for name in ("mlp", "mlp_dynamic"):
        positional, _ = EXPORTED[name].example()
        report = inspect(model_of(exported_files()[name]), *positional, loss="output_mean", diagnostics=diagnostics)
        for part in (report.noise, report.curvature, report.jacobian):
            assert part is None or part.status != "undetermined" or part.reason


def test_a_graph_is_compiled_with_its_sub_graphs() -> None:
    model = model_of(exported_files()["regions"])
    assert all(map(model.uses, ["cond", "tanh", "sin", "wrap_with_set_grad_enabled"]))
