"""Common base of a spec's layers: fields, and the method that computes shapes and parameters for an input shape.

Shapes here leave out the batch axis; axis arguments (`dim`, `start_dim`) are torch's and count it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from math import prod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer

from gradinspect.contracts.document import Document, Finite, number_or_list
from gradinspect.contracts.spec.initialization import Init

MAX_SIZE = 2**31 - 1

Shape = tuple[int, ...]
Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
Inferred = Annotated[Size | None, Field(description="Left out: follows from what arrives.")]
Probability = Annotated[Finite, Field(ge=0, le=1)]
Positive = Annotated[Finite, Field(gt=0)]
AxisIndex = Annotated[int, Field(ge=-9, le=9)]
Role = Literal["weight", "bias", "residual"]

# Attributes of torch.nn.Module and Sequential that a child of that name would hide; a test compares them with torch.
RESERVED_NAMES = frozenset({
    "T_destination", "add_module", "append", "apply", "bfloat16", "buffers", "call_super_init", "children", "compile",
    "cpu", "cuda", "dim", "double", "dump_patches", "eval", "extend", "extra_repr", "float", "forward", "get_buffer",
    "get_extra_state", "get_parameter", "get_submodule", "half", "insert", "ipu", "load_state_dict", "modules", "mtia",
    "named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "pop",
    "register_backward_hook", "register_buffer", "register_forward_hook", "register_forward_pre_hook",
    "register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
    "register_load_state_dict_pre_hook", "register_module", "register_parameter", "register_state_dict_post_hook",
    "register_state_dict_pre_hook", "requires_grad_", "scale", "set_extra_state", "set_submodule", "share_memory",
    "shortcut", "state_dict", "to", "to_empty", "train", "training", "type", "xpu", "zero_grad",
})  # fmt: skip


def _usable(name: str) -> str:
    if name.isdigit():
        raise ValueError("a name of digits alone would read as a position; add a letter")
    if name in RESERVED_NAMES or name.startswith("_"):
        raise ValueError(f"{name!r} is taken by torch.nn.Module; choose another name")
    return name


LayerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$"), AfterValidator(_usable)]


PerAxis = Annotated[
    Annotated[Size, Tag("number")] | Annotated[tuple[Size, ...], Field(min_length=1, max_length=3), Tag("list")],
    Discriminator(number_or_list),
]
PaddingSize = Annotated[int, Field(ge=0, le=MAX_SIZE)]
PaddingPerAxis = Annotated[
    Annotated[PaddingSize, Tag("number")]
    | Annotated[tuple[PaddingSize, ...], Field(min_length=1, max_length=3), Tag("list")],
    Discriminator(number_or_list),
]


class MisfitError(ValueError):
    """A layer cannot take its input, or two of its arguments exclude each other.

    Args:
        detail: continues the sentence "layers[3] (Linear) …".
        field: the argument at fault; None for the layer as a whole.
        gets: the input, where it is part of the problem.
    """

    def __init__(self, detail: str, *, field: str | None = None, gets: object = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.gets = gets


class Resolved(NamedTuple):
    """The shapes of a layer once its input is known."""

    output: Shape
    parameters: Mapping[str, Shape] = {}
    inferred: Mapping[str, object] = {}  # constructor arguments that were omitted
    saved: int | None = None  # elements kept for backward per sample, when that is not the output


class Node(Document):
    """The fields of layers and containers; on a container, `frozen` and `init` hold for every layer inside."""

    type: str
    name: LayerName | None = Field(default=None, description="Used in parameter names instead of the position; unique.")
    frozen: bool = Field(default=False, description="Parameters do not require gradients.")
    init: Init | None = Field(default=None, description="Stands before the init of what is around it.")

    def refuse(self, field: str, detail: str) -> MisfitError:
        """Make the error for an argument that conflicts with others."""
        return MisfitError(f"has a wrong {field}: {detail}", field=field)

    def chosen(self) -> list[str]:
        """Return the names of required fields and of those that differ from their default."""
        return [
            name
            for name, is_required, default in _defaults(type(self))
            if is_required or getattr(self, name) != default
        ]

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:  # Any: JSON
        """Write only what differs from torch's defaults, so that equal specs have one form.

        A meaningful null (`momentum: null`) is written even where the caller omits nulls.
        """
        written: dict[str, Any] = handler(self)
        return {name: written.get(name) for name in self.chosen()}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:  # Any: pydantic's own schema dictionaries
        # The serializer only omits fields, so input and output have the same schema.
        return handler({key: part for key, part in schema.items() if key != "serialization"})


class Layer(Node):
    """One entry of `layers`: a class of `torch.nn` with that class's own constructor arguments."""

    # Constructor arguments that follow from the input; repetitions after the first infer them again.
    inferable: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[Literal["floats", "tokens", "anything"]] = "floats"
    # False where an init of a container or the model does not apply: normalisation, PReLU.
    inherits_init: ClassVar[bool] = True

    tie: LayerName | None = Field(default=None, description="Share the weight of the layer with this name.")

    def resolve(self, shape: Shape) -> Resolved:
        """Return output shape and parameters for an input of `shape` (without batch axis).

        Raises:
            MisfitError: the input or the arguments do not fit.
        """
        raise NotImplementedError

    def arguments(self, inferred: Mapping[str, object]) -> dict[str, object]:
        """Return the constructor's arguments with inferred sizes, without those equal to torch's default."""
        return {name: getattr(self, name) for name in self.chosen() if name not in Layer.model_fields} | dict(inferred)

    def role(self, parameter: str) -> Role | None:
        """Return which part of an `init` applies to a parameter of this layer, or None."""
        return _usual_role(parameter)

    def spread(self, field: str, axes: int) -> Shape:
        """Write an argument that is one number for all axes, or one for each, as one for each."""
        value: int | Shape = getattr(self, field)
        if isinstance(value, int):
            return (value,) * axes
        if len(value) != axes:
            raise self.refuse(field, f"give one number, or a list of {axes}")
        return value

    def settle(self, field: str, actual: int, what: str) -> int:
        """Return the input's size; refuse an argument that contradicts it."""
        declared = getattr(self, field)
        if declared is not None and declared != actual:
            raise MisfitError(f"expects {declared} {what}", field=field, gets=actual)
        return actual


def need_axes(shape: Shape, minimum: int, names: str, *, exact: bool = False) -> None:
    """Refuse an input with too few axes (or, with `exact`, another number of them)."""
    if len(shape) < minimum or (exact and len(shape) != minimum):
        raise MisfitError(f"expects an input of shape ({names})", gets=list(shape))


def axis(dim: int, shape: Shape, layer: Node, *, field: str = "dim") -> int:
    """Turn torch's `dim` (batch axis counted) into an index into `shape` (batch axis left out)."""
    total = len(shape) + 1
    index = dim + total if dim < 0 else dim
    if index == 0:
        raise layer.refuse(field, "it names the batch axis, and samples must not be mixed")
    if not 0 < index < total:
        raise layer.refuse(field, f"{dim} is no axis of a tensor of shape {['batch', *shape]}")
    return index - 1


def elements(shape: Shape) -> int:
    """Count the elements of one sample."""
    return prod(shape)


@lru_cache(maxsize=4096)
def _usual_role(parameter: str) -> Role | None:
    *modules, last = parameter.split(".")
    if any(module.startswith("norm") for module in modules):
        return None
    if last.startswith("weight") or last.endswith("_weight"):
        return "weight"
    return "bias" if last in ("bias", "in_proj_bias") or last.startswith(("bias_ih", "bias_hh")) else None


@cache
def _defaults(kind: type[Node]) -> tuple[tuple[str, bool, object], ...]:
    """Return the fields of a kind of layer: name, whether it is required, and its default."""
    return tuple((name, field.is_required(), field.default) for name, field in kind.model_fields.items())
