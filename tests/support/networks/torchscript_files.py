"""TorchScript files for tests: original ones written by torch, and altered copies."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping

import torch
from torch import nn

MANGLED = "code/__torch__/torch/nn/modules/linear.py"


class Sequence(nn.Module):
    """An LSTM between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.lstm(self.tokens(x))
        output: torch.Tensor = self.head(steps[:, -1])
        return output


class Tied(nn.Module):
    """Input and output share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.tokens(x))
        return output


class Branching(nn.Module):
    """Loops, branches, lists, dicts, strings, attributes of many types, and a free function."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.counts = {"calls": 2}
        self.widths = [4, 4]
        self.rate = 0.5
        self.name = 'it\'s "quoted"\n'
        self.offset: torch.Tensor
        self.register_buffer("offset", torch.arange(4.0))
        self.step = torch.tensor(1 + 2j)

    def forward(self, x: torch.Tensor, repeat: int = 2) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        for layer in self.layers:
            for _ in range(repeat):
                x = torch.relu(layer(x)) + self.offset * self.rate
            outputs.append(x)
        while x.sum() > 1e6:
            x = x * 0.5
        if self.counts["calls"] > 1 and len(self.widths) == 2:
            x = torch.stack(outputs).mean(0)
        else:
            raise RuntimeError(f"{self.name}: no outputs")
        return scaled(x, 2.0)


def scaled(x: torch.Tensor, by: float) -> torch.Tensor:
    """Double a tensor in a free function, which is stored in a separate file."""
    with torch.no_grad():
        largest = x.abs().max()
    return x * by / (largest + 1)


def cnn() -> nn.Module:
    """Convolutions, norms, pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding_mode="circular", padding=1), nn.GroupNorm(2, 4), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(4, 3),
    )  # fmt: skip


def mlp() -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def encoder() -> nn.Module:
    """Build a transformer encoder of torch."""
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(block, 2, enable_nested_tensor=False)


def frozen() -> bytes:
    """Return a file frozen by torch.jit.freeze, whose weights are constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return saved(torch.jit.freeze(torch.jit.script(mlp().eval())))


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "mlp": (mlp, torch.zeros(2, 3)),
    "cnn": (cnn, torch.zeros(2, 1, 8, 8)),
    "lstm": (Sequence, torch.zeros(2, 5, dtype=torch.int64)),
    "transformer encoder": (encoder, torch.zeros(2, 5, 8)),
    "tied": (Tied, torch.zeros(2, 5, dtype=torch.int64)),
    "half precision": (lambda: mlp().half(), torch.zeros(2, 3, dtype=torch.float16)),
    "bfloat16": (lambda: mlp().bfloat16(), torch.zeros(2, 3, dtype=torch.bfloat16)),
    "double": (lambda: mlp().double(), torch.zeros(2, 3, dtype=torch.float64)),
    "branching": (Branching, torch.zeros(2, 4)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), torch.zeros(2, 3)),
}


def saved(module: nn.Module) -> bytes:
    """Return the file that torch.jit.save writes."""
    file = io.BytesIO()
    torch.jit.save(module, file)
    return file.getvalue()


def scripted(model: nn.Module) -> bytes:
    """Return the file of a scripted model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return saved(torch.jit.script(model))


def traced(model: nn.Module, example: torch.Tensor) -> bytes:
    """Return the file of a traced model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return saved(torch.jit.trace(model.eval(), example, check_trace=False))


def loaded(data: bytes) -> nn.Module:
    """Load a file with torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: nn.Module = torch.jit.load(io.BytesIO(data))
        return loaded


def program(source: str) -> bytes:
    """Return a file whose only module has this `forward`, with `x: Tensor` and a `weight` of 3 elements."""
    code = (
        'class Net(Module):\n  __parameters__ = ["weight", ]\n  __buffers__ = []\n  weight : Tensor\n'
        "  training : bool\n  def forward(self: __torch__.Net,\n    x: Tensor) -> Tensor:\n"
    )
    body = "".join(f"    {line}\n" for line in source.splitlines())
    weight = tensor_pickle()
    pickle = b"\x80\x02c__torch__\nNet\n)\x81}(X\x06\x00\x00\x00weight" + weight + b"X\x08\x00\x00\x00training\x88ub."
    return archive({
        "data/0": bytes(12), "data.pkl": pickle, "code/__torch__.py": (code + body).encode(),
        "constants.pkl": b"\x80\x02).", "version": b"3\n", "byteorder": b"little",
    })  # fmt: skip


def tensor_pickle(
    *, numel: int = 3, kind: bytes = b"FloatStorage", offset: int = 0, size: int = 3, stride: int = 1
) -> bytes:
    """Return the opcodes of a one-axis tensor on the storage `0`."""

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpu" + number(numel) + b"tQ" + number(offset) + b"(" + number(size) + b"t("
        + number(stride) + b"t\x88ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def archive(records: Mapping[str, bytes], *, root: str = "net", deflated: tuple[str, ...] = ()) -> bytes:
    """Make a zip archive of these records, uncompressed unless named in `deflated`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, data in records.items():
            how = zipfile.ZIP_DEFLATED if name in deflated else zipfile.ZIP_STORED
            written.writestr(zipfile.ZipInfo(f"{root}/{name}"), data, compress_type=how)
    return file.getvalue()


def records_of(data: bytes) -> dict[str, bytes]:
    """Return the records of a file, by path below its folder."""
    with zipfile.ZipFile(io.BytesIO(data)) as read:
        return {name.partition("/")[2]: read.read(name) for name in read.namelist()}


def changed(data: bytes, **replaced: bytes) -> bytes:
    """Return the file with records replaced; `data_pkl` is the argument for `data.pkl`."""
    records = records_of(data)
    for name, content in replaced.items():
        records[name.replace("_pkl", ".pkl")] = content
    return archive(records)


def raw_zip(
    entries: list[tuple[str, bytes]],
    *,
    prefix: bytes = b"",
    claimed_size: int | None = None,
    flags: int = 0,
    hidden: Mapping[str, bytes] | None = None,
    wide: Callable[[int, int], bytes] = lambda *_: b"",
) -> bytes:
    """Make a zip archive byte by byte, so that its parts can contradict each other.

    Args:
        hidden: by name, other data of the same length, stored after an entry and not listed in the directory.
        wide: makes the extra field of such an entry in the directory from the offsets of listed and hidden data.
    """
    body, directory = bytearray(prefix), bytearray()
    for name, data in entries:
        offset, size = len(body), len(data) if claimed_size is None else claimed_size
        head = struct.pack("<HHHHHIII", 20, flags, 0, 0, 0, zlib.crc32(data), size, size)
        body += b"PK\x03\x04" + head + struct.pack("<HH", len(name), 0) + name.encode() + data
        extra = b""
        if hidden is not None and name in hidden:
            extra, offset = wide(offset, len(body)), 0xFFFFFFFF
            body += b"PK\x03\x04" + head + struct.pack("<HH", len(name), 0) + name.encode() + hidden[name]
        lengths = struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, offset)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + head + lengths + name.encode() + extra
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    return bytes(body + directory + b"PK\x05\x06" + end)
