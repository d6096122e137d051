"""Uploaded programs: files of torch pass; programs that do more than a network, and altered files, are refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from enum import Enum

import pytest
import torch

import tests.support.networks.torchscript_files as files
from gradinspect.contracts.problems import ProblemError
from gradinspect.intake import check_torchscript, recognise, torchscript
from gradinspect.intake.opcodes import read_pickle
from gradinspect.intake.operators import ATEN, FORBIDDEN_ATTRIBUTES, OPERATORS


def check(data: bytes) -> object:
    """Check a file given as bytes."""
    return check_torchscript(io.BytesIO(data))


def refused(data: bytes, code: str = "invalid_model") -> str:
    """Return the reason for which a file is refused."""
    with pytest.raises(ProblemError) as caught:
        check(data)
    assert caught.value.code == code
    return caught.value.detail


@pytest.mark.parametrize("name", files.MODELS)
def test_a_scripted_model_passes(name: str) -> None:
    data = files.scripted(files.MODELS[name][0]())
    assert recognise(io.BytesIO(data)) == "torchscript"
    check(data)


@pytest.mark.parametrize("name", [name for name in files.MODELS if name != "branching"])
def test_a_traced_model_passes(name: str) -> None:
    make, example = files.MODELS[name]
    check(files.traced(make(), example))


def test_a_frozen_model_passes_with_its_weights_among_the_constants() -> None:
    facts = check_torchscript(io.BytesIO(files.frozen()))
    assert facts.elements == sum(p.numel() for p in files.mlp().parameters())


def test_the_facts_are_those_of_the_model() -> None:
    facts = check_torchscript(io.BytesIO(files.scripted(files.mlp())))
    assert facts.class_name == "Sequential"
    assert facts.operators == ("aten::linear", "aten::relu", "aten::relu_", "aten::tanh")
    assert facts.tensors == 6
    assert facts.elements == 3 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2


def test_a_tied_weight_counts_once() -> None:
    facts = check_torchscript(io.BytesIO(files.scripted(files.Tied())))
    assert (facts.tensors, facts.elements) == (1, 66)


def test_a_program_with_only_network_operations_passes() -> None:
    check(files.program("return torch.mul(x, self.weight)"))


OPERATORS_REFUSED = {
    'torch.save(x, "/tmp/taken")': "aten::save",
    'x.save("/tmp/taken")': "aten::save",
    "torch.save": "aten::save",
    "x.save": "aten::save",
    'getattr(x, "save")': "aten::save",
    'torch.from_file("/etc/passwd", False, 10)': "aten::from_file",
    "ops.inductor._reinterpret_tensor(x, [1000], [1], 0)": "inductor::_reinterpret_tensor",
    "ops.quantized.linear(x, x, 1.0, 0)": "quantized::linear",
    "ops.aten.from_file(x)": "aten::from_file",
    "torch.resize_(x, [1000])": "aten::resize_",
    "torch._reshape_alias(torch.zeros([4]), [1000000], [1])": "aten::_reshape_alias",
    "ops.aten._reshape_alias(x, [1000000], [1])": "aten::_reshape_alias",
    "x.set_(x)": "aten::set_",
    "torch.backward(x)": "aten::backward",
    "fork(x)": "fork",
    "fork": "fork",
    "awaitable_nowait": "awaitable_nowait",
    "getattr": "getattr",
    "[hasattr]": "hasattr",
    'rpc_async("worker", x)': "rpc_async",
    "ops.prim.rpc_sync(x)": "prim::rpc_sync",
    "__torch__.torch.classes.quantized.Linear(x)": "__torch__.torch.classes.quantized.Linear",
    "exec(x)": "exec",
    "unknown_function(x)": "unknown_function",
    "x.unknown_method()": "aten::unknown_method",
    "torch._foobar(x)": "aten::_foobar",
}


@pytest.mark.parametrize("source", OPERATORS_REFUSED)
def test_a_refused_operator_is_named_with_its_line(source: str) -> None:
    detail = refused(files.program(f"y = torch.relu(x)\nz = {source}\nreturn y"), "unsupported_operator")
    assert detail.startswith(OPERATORS_REFUSED[source])
    assert detail.endswith("in code/__torch__.py, line 9")


def test_torch_loads_the_programs_that_are_refused_here() -> None:
    """Otherwise the refusals above would prove nothing."""
    harmless = files.loaded(files.program("return torch.mul(x, self.weight)"))
    assert torch.equal(harmless(torch.ones(3)), torch.zeros(3))
    files.loaded(files.program('torch.save(x, "/nowhere")\nreturn x'))
    files.loaded(files.program('f = torch.save\nf(x, "/nowhere")\nreturn x'))


def test_a_field_called_like_a_forbidden_operator_does_not_allow_it() -> None:
    data = files.program('x.save("/tmp/taken")\nreturn x')
    code = files.records_of(data)["code/__torch__.py"].replace(
        b"  training : bool\n", b"  training : bool\n  save : bool\n"
    )
    assert refused(files.archive(files.records_of(data) | {"code/__torch__.py": code}), "unsupported_operator")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("f = torch\nreturn x", "uses 'torch' as a value"),
        ("f = ops\nreturn x", "uses 'ops' as a value"),
        ("return getattr(x, self.name)(x)", "calls something that has no name"),
        ("y = getattr(x, x)\nreturn y", "computes the name of an attribute"),
        ("y = lambda: x\nreturn x", "holds Lambda"),
        ("import os\nreturn x", "holds Import"),
        ("return (x := x)", "holds NamedExpr"),
        ("return f'{x}'", "printer does not write"),
        ("return '''x'''", "printer does not write"),
        ("return x # type: int", "printer does not write"),
        ("return x + \\\n  x", "printer does not write"),
        ("return ｘ", "characters that TorchScript code does not have"),
        ("return CONSTANTS.os", "names the constant 'os'"),
        ("return (", "is not TorchScript code"),
        ("return " + "(" * 70 + "x" + ")" * 70, "nests more than 60 brackets"),
        ("return " + "-" * 5000 + "x", "is not TorchScript code|nests deeper than 300 levels"),
        ("return x" + ".data" * 5000, "is not TorchScript code|nests deeper than 300 levels"),
        ("return " + "+".join(["x"] * 5000), "is not TorchScript code|nests deeper than 300 levels"),
        ("\n".join("  " * depth + "if True:" for depth in range(110)), "is indented deeper than 95 levels"),
    ],
)  # fmt: skip
def test_code_that_is_not_torchscripts_is_refused(source: str, reason: str) -> None:
    detail = refused(files.program(source))
    assert any(part in detail for part in reason.split("|")), detail


def test_code_with_too_many_words_is_refused_before_it_is_parsed() -> None:
    assert "too many words and signs (200000 were left)" in refused(files.program("return x\n" + "x;x;x;x\n" * 30_000))


@pytest.mark.parametrize("name", ["__setstate__", "__getstate__"])
def test_code_that_runs_while_loading_is_refused(name: str) -> None:
    data = files.program(f"return x\n  def {name}(self: __torch__.Net, state: int) -> NoneType:\n  return None")
    code = (
        files.records_of(data)["code/__torch__.py"]
        .replace(b"      def", b"  def")
        .replace(b"      return None", b"    return None")
    )
    assert name in refused(files.archive(files.records_of(data) | {"code/__torch__.py": code}))


def test_a_truncated_storage_is_refused_with_both_sizes() -> None:
    records = files.records_of(files.scripted(files.mlp()))
    detail = refused(files.archive(records | {"data/0": records["data/0"][:-4]}))
    assert detail.startswith("data/0 has 44 bytes, but data.pkl")
    assert "12 elements of FloatStorage, which are 48" in detail


def test_a_missing_storage_is_refused() -> None:
    records = files.records_of(files.scripted(files.mlp()))
    del records["data/2"]
    assert refused(files.archive(records)).startswith("the archive holds no data/2")


def with_tensor(tensor: bytes) -> bytes:
    """Return the small program with another weight."""
    data = files.program("return x")
    return files.changed(data, data_pkl=files.records_of(data)["data.pkl"].replace(files.tensor_pickle(), tensor))


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (files.tensor_pickle(size=4), "reaches beyond its storage of 3 elements"),
        (files.tensor_pickle(stride=2), "reaches beyond its storage"),
        (files.tensor_pickle(offset=1), "reaches beyond its storage"),
        (files.tensor_pickle(stride=-1), "in a form that torch does not write"),
        (files.tensor_pickle(offset=-1), "in a form that torch does not write"),
        (files.tensor_pickle(numel=-3), "a storage of -3 elements"),
        (files.tensor_pickle(kind=b"DoubleStorage"), "has 12 bytes, but data.pkl"),
        (files.tensor_pickle(kind=b"QInt8Storage"), "quantised tensors (QInt8Storage)"),
        (files.tensor_pickle(kind=b"load"), "names torch.load"),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(tensor: bytes, reason: str) -> None:
    assert reason in refused(with_tensor(tensor))


def test_the_unchanged_tensor_passes() -> None:
    check(with_tensor(files.tensor_pickle()))


def pickled(content: bytes) -> bytes:
    """Return a file with this data.pkl."""
    return files.changed(files.program("return x"), data_pkl=content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.", "names os.system"),
        (b"\x80\x02cbuiltins\neval\n)R.", "names builtins.eval"),
        (b"\x80\x02c__torch__.torch.classes.a\nB\n)\x81.", "needs the custom class"),
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00N.", "not of pickle protocol 2"),
        (b"\x80\x02i", "opcode b'i'"),
        (b"\x80\x02N", "ends in the middle"),
        (b"\x80\x02.", "ends in the middle"),
        (b"\x80\x02NN.", "ends in the middle"),
        (b"\x80\x02N.N", "ends in the middle"),
        (b"\x80\x02h\x05.", "reads what it has not written"),
        (b"\x80\x02t.", "closes a group"),
        (b"\x80\x02R.", "takes more from its stack"),
        (b"\x80\x02]Ns.", "fills a dict that is none|takes more from its stack"),
        (b"\x80\x02X\xff\xff\xff\xff.", "a text of 4294967295 bytes"),
        (b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".", "more than 64 bits"),
        (b"\x80\x02)." , "holds no module"),
        (b"\x80\x02]q\x00h\x00a.", "contains itself"),
        (b"\x80\x02" + b"]" * 300 + b"a" * 299 + b".", "nested deeper than 200"),
        (b"\x80\x02" + b")" + b"\x85" * 100_000 + b".", "nested deeper than 200"),
        (b"\x80\x02" + b"N0" * 10, "opcode b'0'"),
        (b"\x80\x02" + b"(" + b"N" * 500_001 + b"t.", "too many opcodes (500000 were left)"),
    ],
)  # fmt: skip
def test_a_pickle_that_torch_does_not_write_is_refused(content: bytes, reason: str) -> None:
    detail = refused(pickled(content))
    assert any(part in detail for part in reason.split("|")), detail


def test_opcodes_inside_debug_information_are_checked_too() -> None:
    records = files.records_of(files.scripted(files.mlp()))
    name = next(name for name in records if name.endswith(".debug_pkl"))
    assert "os.system" in refused(files.archive(records | {name: b"\x80\x02cos\nsystem\n)R."}))


def test_the_total_size_of_debug_information_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    records = files.records_of(files.program("return x"))
    debug = {f"code/{index}.py.debug_pkl": b"\x80\x02(" + b"N" * 50 + b"t." for index in range(3)}
    check(files.archive(records | debug))
    monkeypatch.setattr(torchscript, "MAX_DEBUG_OPCODES", 100)
    assert "too many opcodes" in refused(files.archive(records | debug))


def test_the_total_size_of_code_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchscript, "MAX_CODE_BYTES", 100)
    assert "more than 100 bytes" in refused(files.program("return x"))


def test_one_huge_tuple_shared_by_many_tensors_is_refused_at_the_first() -> None:
    # ((n numbers)) as the shape of a tensor: more axes than torch has, and never expanded.
    huge = b"(" + b"K\x01" * 1000 + b"t"
    tensor = files.tensor_pickle().replace(b"(J" + struct.pack("<i", 3) + b"t(", huge + b"(")
    assert "in a form that torch does not write" in refused(with_tensor(tensor))


def test_a_type_that_nests_too_deep_is_refused() -> None:
    deep = b"List[" * 30 + b"int" + b"]" * 30
    tagged = b"ctorch.jit._pickle\nrestore_type_tag\n(]X" + struct.pack("<I", len(deep)) + deep + b"tR"
    assert "a type that nests too deep" in refused(with_tensor(tagged))


def test_a_pickle_of_torch_save_is_refused_with_advice() -> None:
    file = io.BytesIO()
    torch.save(files.mlp().state_dict(), file)
    detail = refused(file.getvalue())
    assert "written by torch.save" in detail
    assert "safetensors" in detail
    file = io.BytesIO()
    torch.save({"a": 1}, file, _use_new_zipfile_serialization=False)
    assert "the file is a pickle" in refused(file.getvalue())


def test_an_exported_program_is_recognised_and_no_torchscript() -> None:
    # The records of a .pt2 file of torch 2.13, as torch.export.save names them.
    data = files.archive({
        "archive_format": b"pt2", "archive_version": b"0", "models/model.json": b"{}", "byteorder": b"little",
        "data/sample_inputs/model.pt": b"", "data/weights/model_weights_config.json": b"{}",
    })  # fmt: skip
    assert recognise(io.BytesIO(data)) == "exported"
    assert "an exported program and no TorchScript" in refused(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello world, this is no model at all", "no zip archive"),
        (b"<html></html>", "the file is text"),
        (b'{"input": {}}', "the file is text"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (struct.pack("<Q", 2) + b"{}", "safetensors"),
        (b"PK\x03\x04", "no zip archive"),
        (b"PK\x03\x04" + bytes(100), "does not end with a zip directory"),
    ],
)
def test_another_kind_of_file_is_named(data: bytes, reason: str) -> None:
    assert reason in refused(data)


def test_a_file_cut_off_anywhere_is_refused() -> None:
    whole = files.scripted(files.mlp())
    for length in range(0, len(whole), 97):
        assert refused(whole[:length])


def test_random_damage_is_refused_or_harmless_and_never_an_internal_error() -> None:
    whole = files.scripted(files.mlp())
    draws = torch.Generator().manual_seed(0)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(whole)
        for at in torch.randint(0, len(whole), (3,), generator=draws).tolist():
            damaged[at] ^= 1 << int(torch.randint(0, 8, (1,), generator=draws))
        try:
            check(bytes(damaged))
            outcomes.add("passed")
        except ProblemError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_records_that_torch_does_not_write_are_refused() -> None:
    records = files.records_of(files.program("return x"))
    assert "'evil.so'" in refused(files.archive(records | {"evil.so": b"x"}))
    assert "lite interpreter" in refused(files.archive(records | {"bytecode.pkl": b"x"}))
    assert "data.pkl is compressed" in refused(files.archive(records, deflated=("data.pkl",)))
    check(files.archive(records | {"extra/notes.txt": b"mine"}, deflated=("code/__torch__.py",)))


def test_an_archive_inside_an_archive_is_not_opened() -> None:
    inner = files.program("return x")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as outer:
        outer.writestr("net/model.pt", inner)
    assert "no data.pkl and constants.pkl" in refused(file.getvalue())


def test_allowed_operators_exist_and_none_of_them_is_forbidden() -> None:
    real = {schema.name for schema in torch._C._jit_get_all_schemas()}
    assert real >= OPERATORS
    assert not ATEN & FORBIDDEN_ATTRIBUTES


def test_checking_loads_no_torch() -> None:
    code = "import sys, gradinspect.intake; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Format(Enum):
    """As a network of images names the order of its axes."""

    CHANNELS_FIRST = "NCHW"


class Level(Enum):
    """With values that are numbers."""

    HIGH = 3


class WithMembers(torch.nn.Module):
    """Keeps members of enumerations as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.order, self.level = torch.nn.Linear(4, 2), Format.CHANNELS_FIRST, Level.HIGH

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


def test_members_of_enumerations_pass() -> None:
    check(files.scripted(WithMembers()))


def test_a_bare_argument_of_another_function_is_refused() -> None:
    data = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nK\x03R."
    with pytest.raises(ProblemError, match="calls something that is no function"):
        read_pickle(data, "data.pkl")
