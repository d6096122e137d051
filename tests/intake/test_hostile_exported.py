"""Altered .pt2 files: each is refused with its place before anything runs, or fails by name; no text of it is code."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tests.support.networks.torchscript_files as files
from gradinspect.contracts.problems import InspectionError, ProblemError
from gradinspect.intake import check_upload
from tests.support.exported_files import (
    CONSTANTS,
    MODEL,
    WEIGHTS,
    altered,
    exported_files,
    graph_of,
    model_of,
    node_of,
    with_records,
)

Json = Any
Make = Callable[[Path], bytes]


class Harmful:
    """A pickle of this runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.marker)!r}, 'w')",))


def base() -> bytes:
    return exported_files()["mlp_dynamic"]


def in_model(change: Callable[[Json], object], name: str = "mlp_dynamic") -> Make:
    return lambda _marker: altered(exported_files()[name], lambda document: _run(change, document))


def in_weights(change: Callable[[Json], object], path: str = WEIGHTS, name: str = "mlp_dynamic") -> Make:
    return lambda _marker: altered(exported_files()[name], lambda document: _run(change, document), path=path)


def _run(change: Callable[[Json], object], document: Json) -> None:
    change(document)


def weight(document: Json, name: str = "0.weight") -> Json:
    return document["config"][name]


def meta(document: Json) -> Json:
    return weight(document)["tensor_meta"]


def linear(document: Json) -> Json:
    return node_of(document, "torch.ops.aten.linear.default")


def signature(document: Json) -> Json:
    return document["graph_module"]["signature"]


def call(document: Json) -> Json:
    return document["graph_module"]["module_call_graph"][0]["signature"]


def put(holder: Json, key: Any, value: Json) -> None:
    holder[key] = value


def target(name: str) -> Make:
    return in_model(lambda document: put(linear(document), "target", name))


def size(text: str) -> Make:
    return in_model(
        lambda document: put(
            graph_of(document)["tensor_values"]["input"]["sizes"], 0, {"as_expr": {"expr_str": text, "hint": None}}
        )
    )


def size_that_runs(template: str) -> Make:
    """Put Python code into a size; sympy.sympify would run it."""

    def make(marker: Path) -> bytes:
        text = template.replace("MARKER", str(marker))
        return size(text)(marker)

    return make


def in_every_size(text: str) -> Make:
    def change(document: Json) -> None:
        for value in graph_of(document)["tensor_values"].values():
            value["strides"] = [{"as_expr": {"expr_str": text, "hint": None}} for _ in value["sizes"]]

    return in_model(change)


def nested(depth: int) -> Make:
    """Put graphs into graphs."""

    def change(document: Json) -> None:
        inner = node_of(document, "torch.ops.higher_order.wrap_with_set_grad_enabled")
        for _ in range(depth):
            graph = json.loads(json.dumps(inner["inputs"][1]["arg"]["as_graph"]["graph"]))
            copied = json.loads(json.dumps(inner))
            copied["inputs"] = [
                item for item in copied["inputs"] if "as_graph" in item["arg"] or "as_bool" in item["arg"]
            ]
            graph["nodes"].append({**copied, "outputs": []})
            inner["inputs"][1]["arg"]["as_graph"]["graph"] = graph

    return in_model(change, "regions")


def harmful_pickle(path: str, name: str = "mlp_dynamic") -> Make:
    """Put a pickle that runs a command into an entry."""

    def make(marker: Path) -> bytes:
        records = files.records_of(exported_files()[name])
        return files.archive({**records, path: pickle.dumps(Harmful(marker))})

    return make


def pickled_weight(marker: Path) -> bytes:
    data = harmful_pickle("data/weights/weight_0")(marker)
    return altered(data, lambda document: put(weight(document), "use_pickle", True), path=WEIGHTS)


def many_nodes(document: Json) -> None:
    graph = graph_of(document)
    node = linear(document)
    graph["nodes"] = [
        {**node, "outputs": [{"as_tensor": {"name": f"n{index}"}}], "metadata": {}} for index in range(100_001)
    ]


def cycle(document: Json) -> None:
    nodes = graph_of(document)["nodes"]
    nodes[0]["inputs"][0]["arg"] = {"as_tensor": {"name": nodes[1]["outputs"][0]["as_tensor"]["name"]}}


def zipped(data: bytes, *, method: int = zipfile.ZIP_STORED, extra: tuple[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for path, content in files.records_of(data).items():
            archive.writestr(f"net/{path}", content)
        if extra is not None:
            archive.writestr(*extra)
    return file.getvalue()


def duplicate_key(_marker: Path) -> bytes:
    records = files.records_of(base())
    text = records[MODEL].decode()
    return files.archive({**records, MODEL: ('{"opset_version": {}, ' + text[1:]).encode()})


CODE = "__import__('os').system('touch MARKER')"
# Each file with the part of the reason that names the place.
CORPUS: dict[str, tuple[Make, str]] = {
    # The archive.
    "cut off": (lambda _m: base()[:-100], "zip directory|ends in the middle"),
    "bytes behind": (lambda _m: base() + b"more", "zip directory"),
    "bytes before": (lambda _m: b"PK\x03\x04" + base(), "64-bit directory"),
    "compressed": (lambda _m: zipped(base(), method=zipfile.ZIP_DEFLATED), "data/weights/weight_0 is compressed"),
    "outside path": (lambda _m: zipped(base(), extra=("net/../up", b"x")), "points outside"),
    "second folder": (lambda _m: zipped(base(), extra=("other/x", b"x")), "do not share one folder"),
    "unknown entry": (lambda _m: with_records(base(), code__run=b"x"), "'code/run'"),
    "second model": (lambda _m: with_records(base(), **{"models__other.json": b"{}"}), "holds 2 models"),
    "no model": (lambda _m: with_records(base(), **{"models__model.json": None}), "holds 0 models|no TorchScript"),
    "compiled library": (
        lambda _m: with_records(base(), **{"data__aotinductor__model__run.so": b"\x7fELF"}), "a compiled model"
    ),
    "old format": (
        lambda _m: with_records(base(), **{"serialized_exported_program.json": b"{}"}), "torch 2.7 or older"
    ),
    "big endian": (lambda _m: with_records(base(), byteorder=b"big"), "byteorder"),
    "other format": (lambda _m: with_records(base(), archive_format=b"pt3"), "archive_format"),
    "missing weight": (lambda _m: with_records(base(), data__weights__weight_0=None), "no data/weights/weight_0"),
    "short weight": (lambda _m: with_records(base(), data__weights__weight_0=b"\0" * 8), "reaches beyond the 8 bytes"),
    "no weights config": (
        lambda _m: with_records(base(), data__weights__model_weights_config__json=b"{}"), "which torch.export.save does"
    ),
    # Pickles in every place that can hold one.
    "sample inputs are a pickle": (harmful_pickle("data/sample_inputs/model.pt"), ""),
    "a weight is a pickle": (pickled_weight, "config/0.weight/use_pickle: '0.weight' is pickled"),
    "a constant is a pickle": (harmful_pickle("data/constants/tensor_0", "counting"), ""),
    "an extra file is a pickle": (harmful_pickle("extra/notes"), ""),
    "a pickle at the top": (harmful_pickle("data.pkl"), "'data.pkl'"),
    "a custom object": (harmful_pickle("data/constants/custom_obj_0"), ""),
    "the model is a pickle": (harmful_pickle("models/model.json"), "models/model.json is not strict JSON"),
    "the weights' config is a pickle": (harmful_pickle(WEIGHTS), "model_weights_config.json is not strict JSON"),
    # The document.
    "duplicate key": (duplicate_key, "given twice"),
    "no object": (lambda _m: with_records(base(), **{"models__model.json": b"[]"}), "is no object"),
    "NaN": (lambda _m: with_records(base(), **{"models__model.json": b'{"a": NaN}'}), "not strict JSON"),
    "deep JSON": (
        lambda _m: with_records(base(), **{"models__model.json": b"[" * 5000 + b"]" * 5000}), "deeper"
    ),
    "many values": (
        lambda _m: with_records(base(), **{"models__model.json": b"[" + b"0," * 6_100_000 + b"0]"}), "at most"
    ),
    "unknown field": (in_model(lambda d: put(d, "pickle", "x")), "/: has a field 'pickle'"),
    "no graph": (in_model(lambda d: d.pop("graph_module")), "no field 'graph_module'"),
    "future version": (in_model(lambda d: put(d["schema_version"], "major", 9)), "/schema_version/major"),
    "version as text": (in_model(lambda d: put(d["schema_version"], "major", "8")), "schema_version/major: is no int"),
    "opset": (in_model(lambda d: put(d["opset_version"], "aten", True)), "/opset_version/aten: is no integer"),
    "torch version": (in_model(lambda d: put(d, "torch_version", 2)), "/torch_version"),
    "verifiers": (in_model(lambda d: put(d, "verifiers", "TRAINING")), "/verifiers: is no list"),
    "guards that are no texts": (in_model(lambda d: put(d, "guards_code", [{}])), "/guards_code/0: is no text"),
    "empty range": (
        in_model(lambda d: put(d["range_constraints"], "s0", {"min_val": 5, "max_val": 2})), "from 5 to 2 is empty"
    ),
    "a range of code": (
        in_model(lambda d: put(d["range_constraints"], CODE, {"min_val": 0, "max_val": 2})), "/range_constraints"
    ),
    # Sizes.
    "code in a size": (size_that_runs(CODE), "/sizes/0.*character|function '__import__'"),
    "code behind a size": (size_that_runs("Integer(2)." + CODE), "expression"),
    "code in a symbol": (size_that_runs("Symbol(" + CODE + ")"), "expression"),
    "eval in a size": (size_that_runs("eval('open(MARKER)')"), "function 'eval'|character"),
    "lambda in a size": (size("(lambda: 0)()"), "expression"),
    "a subscript in a size": (size("().__class__.__bases__[0]"), "character"),
    "a comprehension in a size": (size("[x for x in ()]"), "character"),
    "an assignment in a size": (size("(a := 1)"), "character"),
    "a huge power": (size("Pow(Integer(10), Pow(Integer(10), Integer(10)))"), ""),
    "a huge number": (size("Integer(" + "9" * 60 + ")"), "64 bits"),
    "a long size": (size("s0 + " * 5000 + "s0"), "characters; at most"),
    "a deep size": (size("(" * 500 + "s0" + ")" * 500), "deeper"),
    "many signs": (size("-" * 1900 + "1"), ""),
    "an unknown function": (size("Lambda(Symbol('x'), Integer(1))"), "function 'Lambda'"),
    "code in the strides of every value": (in_every_size(CODE), "/strides/0|character"),
    "code in a computed size": (
        in_model(lambda d: put(graph_of(d)["sym_int_values"], "s", {"as_expr": {"expr_str": CODE}})), "sym_int_values/s"
    ),
    "code in a truth": (
        in_model(lambda d: put(graph_of(d)["sym_bool_values"], "s", {"as_expr": {"expr_str": CODE}})), "sym_bool_values"
    ),
    "code in a hint": (
        in_model(
            lambda d: put(
                graph_of(d)["tensor_values"]["input"]["sizes"], 0,
                {"as_expr": {"expr_str": "s0", "hint": {"as_int": CODE}}},
            )
        ),
        "/hint/as_int: is no integer",
    ),
    # Operators.
    "reads a file": (target("torch.ops.aten.from_file.default"), "aten.from_file.default is not allowed"),
    "writes a file": (target("torch.ops.aten.save.default"), "aten.save.default is not allowed"),
    "changes memory": (target("torch.ops.aten.set_.source_Tensor"), "aten.set_.source_Tensor is not allowed"),
    "resizes": (target("torch.ops.aten.resize_.default"), "not allowed"),
    "reads beyond memory": (target("torch.ops.inductor._reinterpret_tensor.default"), "inductor._reinterpret_tensor"),
    "aliases without a check": (target("torch.ops.aten._reshape_alias.default"), "not allowed"),
    "an out variant": (target("torch.ops.aten.add.out"), "not allowed"),
    "a text function": (target("torch.ops.aten.format.default"), "not allowed"),
    "a custom operator": (target("torch.ops.mylib.run.default"), "mylib.run.default is not allowed; custom operators"),
    "transformers' operator": (target("torch.ops.transformers.grouped_mm_fallback.default"), "experts_implementation"),
    "a loop": (target("torch.ops.higher_order.while_loop"), "while_loop is not allowed; write a loop with a known"),
    "a custom class's method": (target("torch.ops.higher_order.call_torchbind"), "replace the custom class"),
    "a Python function": (target("os.system"), "'os.system' is no operator"),
    "a builtin": (target("builtins.eval"), "no operator"),
    "an import": (target(CODE), "no operator"),
    "an operator of sizes with code": (target("_operator.methodcaller"), "no operator"),
    "torch.load": (target("torch.load"), "no operator"),
    # Nodes and values.
    "a value before it is made": (in_model(cycle), "is used before it is made"),
    "a value of its own node": (
        in_model(lambda d: put(linear(d)["inputs"][0]["arg"], "as_tensor", {"name": "linear"})), "before it is made"
    ),
    "a value made twice": (
        in_model(lambda d: put(graph_of(d)["nodes"][1]["outputs"][0], "as_tensor", {"name": "linear"})), "made twice"
    ),
    "an argument given twice": (in_model(lambda d: linear(d)["inputs"].append(linear(d)["inputs"][0])), "given twice"),
    "an argument's name": (in_model(lambda d: put(linear(d)["inputs"][0], "name", "a b")), "/name: is no name"),
    "two forms of a value": (
        in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_int": 1, "as_none": True})), "one field"
    ),
    "an unknown form": (
        in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_code": CODE})), "form 'as_code', which is not taken"
    ),
    "an operator as a value": (
        in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_operator": "os.system"})), "'as_operator'"
    ),
    "a custom object as a value": (
        in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_custom_obj": {"name": "a", "class_fqn": "b"}})),
        "'as_custom_obj'",
    ),
    "a bool as an integer": (in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_int": True})), "is no integer"),
    "a number beyond 64 bits": (
        in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_int": 2**70})), "64 bits"
    ),
    "an element type": (
        in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_scalar_type": 99})), "element type 99"
    ),
    "a sparse layout": (in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_layout": 2})), "strided"),
    "the device meta": (
        in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_device": {"type": "meta", "index": None}})), "meta"
    ),
    "a graph for a plain operator": (
        in_model(lambda d: put(linear(d)["inputs"][0], "arg", {"as_graph": {}})), "only higher-order operators"
    ),
    "too many nodes": (in_model(many_nodes), "100001 elements|more than 100000 nodes|at most"),
    "graphs in graphs": (nested(10), "deeper than"),
    "a name with controls": (
        in_model(lambda d: put(linear(d)["outputs"][0], "as_tensor", {"name": "\x1b[31m"})), "is no name"
    ),
    "metadata that is unknown": (in_model(lambda d: put(linear(d)["metadata"], "code", "x")), "/metadata: has a field"),
    "a stack that is no text": (
        in_model(lambda d: put(linear(d)["metadata"], "stack_trace", ["x"])), "/metadata/stack_trace: is no text"
    ),
    "custom objects": (
        in_model(lambda d: put(graph_of(d), "custom_obj_values", {"a": {}})), "custom objects"
    ),
    # The signature.
    "a parameter that is absent": (
        in_model(lambda d: put(signature(d)["input_specs"][0]["parameter"], "parameter_name", "9.weight")), "'9.weight'"
    ),
    "a custom object as an input": (
        in_model(lambda d: put(signature(d)["input_specs"], 0, {"custom_obj": {}})), "is a custom object"
    ),
    "a token as an input": (in_model(lambda d: put(signature(d)["input_specs"], 0, {"token": {}})), "role 'token'"),
    "inputs that are left out": (in_model(lambda d: signature(d)["input_specs"].pop()), "/input_specs: describes"),
    "results that are left out": (in_model(lambda d: signature(d)["output_specs"].pop()), "/output_specs: describes"),
    "a backward pass": (in_model(lambda d: put(signature(d)["output_specs"], 0, {"loss_output": {}})), "backward pass"),
    "a buffer that is absent": (
        in_model(
            lambda d: put(
                signature(d)["output_specs"], 0, {"buffer_mutation": {"arg": {"name": "x"}, "buffer_name": "y"}}
            )
        ),
        "not the graph's result",
    ),
    "a structure that is code": (in_model(lambda d: put(call(d), "in_spec", CODE)), "in_spec: is no structure"),
    "a structure of another version": (in_model(lambda d: put(call(d), "out_spec", "[2, {}]")), "out_spec"),
    "a structure with more leaves": (
        in_model(
            lambda d: put(
                call(d), "out_spec",
                '[1, {"type": "builtins.tuple", "context": "null", "children_spec": '
                '[{"type": null, "context": null, "children_spec": []}, '
                '{"type": null, "context": null, "children_spec": []}]}]',
            )
        ),
        "leaves",
    ),
    "no calls": (in_model(lambda d: put(d["graph_module"], "module_call_graph", [])), "module_call_graph: is empty"),
    # Weights.
    "a weight's path": (in_weights(lambda d: put(weight(d), "path_name", "../../etc/passwd")), "/path_name"),
    "a lying shape": (
        in_weights(lambda d: put(meta(d), "sizes", [{"as_int": 8}, {"as_int": 600}])), "reaches beyond the 192 bytes"
    ),
    "a shape of another size": (
        in_weights(lambda d: put(meta(d), "sizes", [{"as_int": 4}, {"as_int": 6}])), "in the graph, and float32"
    ),
    "a negative size": (in_weights(lambda d: put(meta(d)["sizes"], 0, {"as_int": -8})), "from 0"),
    "a huge size": (in_weights(lambda d: put(meta(d)["sizes"], 0, {"as_int": 2**62})), "reaches beyond"),
    "negative strides": (in_weights(lambda d: put(meta(d)["strides"], 0, {"as_int": -6})), "from 0"),
    "an offset": (in_weights(lambda d: put(meta(d), "storage_offset", {"as_int": 10**9})), "reaches beyond"),
    "a weight of broadcast zeros": (
        in_weights(
            lambda d: meta(d).update(
                sizes=[{"as_int": 2**30}, {"as_int": 2**30}], strides=[{"as_int": 0}, {"as_int": 0}]
            )
        ),
        "reaches beyond",
    ),
    "a size of code": (in_weights(lambda d: put(meta(d)["sizes"], 0, {"as_expr": {"expr_str": CODE}})), "expression"),
    "another element type": (in_weights(lambda d: put(meta(d), "dtype", 6)), "in the graph, and float16"),
    "an 8-bit float": (in_weights(lambda d: put(meta(d), "dtype", 29)), "element type that is not taken"),
    "trained integers": (in_weights(lambda d: put(meta(d), "dtype", 4)), "int32 has no gradients"),
    "a sparse weight": (in_weights(lambda d: put(meta(d), "layout", 1)), "sparse"),
    "a weight without a name": (in_weights(lambda d: d["config"].update({"": d["config"]["0.weight"]})), "name"),
    "an unknown field of a weight": (in_weights(lambda d: put(weight(d), "loader", "os")), "has a field 'loader'"),
    "constants that are pickled": (
        in_weights(
            lambda d: put(next(iter(d["config"].values())), "use_pickle", True), CONSTANTS, "counting"
        ),
        "is pickled",
    ),
}  # fmt: skip
# Fields that are not read: the file is inspected, and nothing of them runs.
UNREAD = {"sample inputs are a pickle", "an extra file is a pickle", "a custom object", "a constant is a pickle"}
# Refused when the model is built or called, by name.
LATER = {"a huge power", "many signs"}


@pytest.mark.parametrize("name", sorted(CORPUS.keys() - UNREAD - LATER))
def test_an_altered_file_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    make, reason = CORPUS[name]
    marker = tmp_path / "ran"
    with pytest.raises(ProblemError, match=rf"(?s){reason}") as caught:
        check_upload(io.BytesIO(make(marker)), must_be_model=True)
    assert caught.value.code in ("invalid_model", "unsupported_operator")
    assert len(caught.value.detail) < 1000
    assert not marker.exists()


@pytest.mark.parametrize("name", sorted(UNREAD))
def test_a_pickle_where_none_is_read_does_nothing(name: str, tmp_path: Path) -> None:
    data = CORPUS[name][0](tmp_path / "ran")
    assert check_upload(io.BytesIO(data), must_be_model=True) == "exported"
    model_of(data)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", sorted(LATER))
def test_what_passes_the_check_fails_by_name_where_it_is_used(name: str, tmp_path: Path) -> None:
    import torch

    data = CORPUS[name][0](tmp_path / "ran")
    with pytest.raises((InspectionError, ProblemError)) as caught:
        model_of(data)(torch.zeros(4, 6))
    assert isinstance(caught.value, InspectionError)
    assert caught.value.code == "data_mismatch"


def test_the_unaltered_files_pass() -> None:
    for name, data in exported_files().items():
        assert check_upload(io.BytesIO(data), must_be_model=True) == "exported", name


def test_no_file_imports_unpickles_opens_or_runs_anything(tmp_path: Path) -> None:
    """All files are checked, and those that pass are run, in a process that notes what Python reports of its acts."""
    marker = tmp_path / "ran"
    for index, (make, _) in enumerate(CORPUS.values()):
        tmp_path.joinpath(f"{index:03}.pt2").write_bytes(make(marker))
    tmp_path.joinpath("999.pt2").write_bytes(base())
    program = textwrap.dedent("""
        import io, sys
        from pathlib import Path
        from gradinspect.intake import check_upload
        contents = [path.read_bytes() for path in sorted(Path(sys.argv[1]).glob("*.pt2"))]
        acts = []
        FORBIDDEN = ("pickle.", "os.", "subprocess.", "socket.", "exec", "compile", "open", "ctypes.", "import")
        sys.addaudithook(lambda event, _: acts.append(event) if event.startswith(FORBIDDEN) else None)
        passed = []
        for content in contents:
            try:
                check_upload(io.BytesIO(content), must_be_model=True)
                passed.append(content)
            except Exception as error:
                assert type(error).__name__ == "ProblemError", error
        assert not acts, acts[:5]
        assert not {"torch", "pickle", "sympy"} & sys.modules.keys()
        import torch
        from gradinspect.contracts.problems import InspectionError
        from gradinspect.engine.network.exported.model import ExportedModel
        from gradinspect.intake.exported import read_program
        ExportedModel(read_program(io.BytesIO(contents[-1])), contents[-1])(torch.zeros(4, 6))
        torch.load = None
        acts.clear()
        for content in passed:
            try:
                model = ExportedModel(read_program(io.BytesIO(content)), content)
                model(torch.zeros(4, 6))
            except InspectionError:
                pass
        assert not acts, acts[:5]
        assert not {"torch._export.serde", "sympy"} & sys.modules.keys()
        print(len(contents), len(passed))
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 60
    assert not marker.exists()
