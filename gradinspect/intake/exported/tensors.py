"""Descriptions of tensors in an exported program, and the bytes of the archive that hold the stored ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from gradinspect.contracts.exported.expressions import Expression, ExpressionError, evaluate, integer, read_expression
from gradinspect.contracts.exported.program import StoredTensor
from gradinspect.intake.archive import Archive
from gradinspect.intake.exported.fields import JsonField

MAX_AXES = 64  # torch's own limit
MAX_ELEMENTS = 2**36
STRIDED = 7

# Codes of the file's schema: name in torch, bytes of an element. Quantised and 8-bit types have no gradients.
DTYPES = {
    1: ("uint8", 1), 2: ("int8", 1), 3: ("int16", 2), 4: ("int32", 4), 5: ("int64", 8), 6: ("float16", 2),
    7: ("float32", 4), 8: ("float64", 8), 10: ("complex64", 8), 11: ("complex128", 16), 12: ("bool", 1),
    13: ("bfloat16", 2),
}  # fmt: skip
MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}
_TRAINABLE = frozenset({"float16", "float32", "float64", "bfloat16", "complex64", "complex128"})

_META = ("dtype", "sizes", "requires_grad", "device", "strides", "storage_offset", "layout")
_PAYLOAD = ("path_name", "is_param", "use_pickle", "tensor_meta")
_PATH = re.compile(r"(weight|tensor)_\d{1,9}", re.ASCII)


class Sizes:
    """Reads sizes; a text that was read before is not read again."""

    def __init__(self) -> None:
        self._known: dict[str, Expression] = {}

    def read(self, field: JsonField) -> tuple[Expression, int | None]:
        """Return a size, and its value when the program was exported, where the file says it."""
        kind, inner = field.variant()
        if kind == "as_int":
            value = inner.integer()
            return integer(value), value
        if kind in ("as_float", "as_bool"):
            return Expression("number"), None
        if kind != "as_expr":
            raise field.refuse(f"has the form {kind[:40]!r}, which is no size")
        members = inner.fields(["expr_str"], ["hint"])
        return self.expression(members["expr_str"]), _hint(members.get("hint"))

    def expression(self, field: JsonField) -> Expression:
        """Return the expression of a text."""
        text = field.text()
        if text not in self._known:
            try:
                self._known[text] = read_expression(text)
            except ExpressionError as error:
                raise field.refuse(f"the expression {text[:80]!r} {error}") from None
        return self._known[text]


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """What the file says of a tensor.

    Attributes:
        dtype: by torch's name; None for a type that no input or weight may have.
        item_bytes: of one element.
        sizes: with the value of each when the program was exported, where the file says it.
        requires_grad: whether it is trained.
    """

    dtype: str | None
    item_bytes: int
    sizes: tuple[tuple[Expression, int | None], ...]
    strides: tuple[tuple[Expression, int | None], ...]
    offset: Expression
    requires_grad: bool


def read_meta(field: JsonField, sizes: Sizes) -> TensorMeta:
    """Read the description of a tensor."""
    members = field.fields(_META)
    code = members["dtype"].integer(0, 255)
    dtype, item_bytes = DTYPES.get(code, (None, 1))
    shape = tuple(sizes.read(item) for item in members["sizes"].items(MAX_AXES))
    strides = tuple(sizes.read(item) for item in members["strides"].items(MAX_AXES))
    if len(shape) != len(strides):
        raise field.refuse("has another number of strides than sizes")
    check_device(members["device"])
    if members["layout"].integer(0, 7) != STRIDED:
        raise members["layout"].refuse("the tensor is sparse; make it dense before the model is exported")
    offset, _ = sizes.read(members["storage_offset"])
    return TensorMeta(dtype, item_bytes, shape, strides, offset, members["requires_grad"].boolean())


def check_device(field: JsonField) -> None:
    """Check a device; which one it is does not matter, since the model runs where its parameters are."""
    members = field.fields(["type"], ["index"])
    kind = members["type"].name(16)
    if kind == "meta":
        raise field.refuse("the device is meta, where tensors have no values; export the model from cpu or cuda")
    if "index" in members and members["index"].value is not None:
        members["index"].integer(0, 127)


def read_dtype(field: JsonField) -> str:
    """Read an element type; return torch's name."""
    code = field.integer(0, 255)
    if code not in DTYPES:
        raise field.refuse(
            f"the element type {code} is not taken; known are {', '.join(n for n, _ in DTYPES.values())}"
        )
    return DTYPES[code][0]


def read_payloads(archive: Archive, folder: str, config: JsonField, sizes: Sizes) -> dict[str, StoredTensor]:
    """Read which tensors the archive holds in a folder, by their names in the model.

    Raises:
        ProblemError: `invalid_model`, for a tensor that is pickled, is missing, or reaches beyond its bytes.
    """
    stored = {}
    for name, field in config.fields(["config"])["config"].members(50_000).items():
        stored[name] = _stored(archive, folder, name, field, sizes)
    return stored


def _stored(archive: Archive, folder: str, name: str, field: JsonField, sizes: Sizes) -> StoredTensor:
    if not name or len(name) > 512 or not name.isprintable():
        raise field.refuse("has a name that no tensor of a model has")
    members = field.fields(_PAYLOAD)
    is_parameter = members["is_param"].boolean()
    if members["use_pickle"].boolean():
        raise members["use_pickle"].refuse(
            f"{name[:80]!r} is pickled, and a pickle can run any code when it is loaded; replace custom objects and "
            "tensor subclasses (quantised or distributed tensors) by plain tensors before the model is exported"
        )
    path = members["path_name"].name(80)
    if _PATH.fullmatch(path) is None:
        raise members["path_name"].refuse(f"is {path!r}; tensors are called weight_0 or tensor_0")
    entry = archive.find(f"{folder}/{path}")
    if entry is None:
        raise members["path_name"].refuse(f"the archive holds no {folder}/{path}")
    if entry.deflated:
        raise members["path_name"].refuse(
            f"{folder}/{path} is compressed; torch.export.save stores tensors as they are"
        )
    meta = read_meta(members["tensor_meta"], sizes)
    if meta.dtype is None:
        raise members["tensor_meta"].refuse(
            f"{name[:80]!r} has an element type that is not taken, such as an 8-bit float"
        )
    if meta.requires_grad and meta.dtype not in _TRAINABLE:
        raise members["tensor_meta"].refuse(f"{name[:80]!r} is trained, but {meta.dtype} has no gradients")
    shape = tuple(_known(size, members["tensor_meta"]) for size, _ in meta.sizes)
    strides = tuple(_known(stride, members["tensor_meta"]) for stride, _ in meta.strides)
    offset = _known(meta.offset, members["tensor_meta"])
    count: int = prod(shape)
    reach = offset + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count > MAX_ELEMENTS or (count and reach * meta.item_bytes > entry.size_bytes):
        raise members["tensor_meta"].refuse(
            f"{name[:80]!r} is {meta.dtype}{list(shape)} with strides {list(strides)} from element {offset}, which "
            f"reaches beyond the {entry.size_bytes} bytes of {folder}/{path}"
        )
    return StoredTensor(
        name, meta.dtype, shape, strides, offset, meta.requires_grad and is_parameter, entry.start, entry.size_bytes
    )


def _known(size: Expression, field: JsonField) -> int:
    try:
        value = evaluate(size, {})
    except ExpressionError:
        value = -1
    if value < 0:
        raise field.refuse(f"has the size {str(size)[:40]}; stored tensors have sizes and strides from 0")
    return value


def _hint(field: JsonField | None) -> int | None:
    if field is None or field.value is None:
        return None
    kind, inner = field.variant()
    if kind == "as_int":
        return inner.integer()
    if kind == "as_bool":
        inner.boolean()
    elif kind == "as_float":
        inner.number()
    else:
        raise field.refuse(f"has the form {kind[:40]!r}, which is no hint")
    return None
