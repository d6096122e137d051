"""From a spec to what it would build: every layer call with its path, shapes, parameters and initialisers.

Pure Python and no torch. The walk follows one sample from the input on, so an error can name the layer that does not
fit, what it expects, what it gets and from where; `engine.build` follows the same plan and never infers on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from gradinspect.contracts.spec.initialization import Init, Initializer
from gradinspect.contracts.spec.layers import (
    Concat,
    Container,
    Entry,
    Layer,
    MisfitError,
    Repeat,
    Residual,
    Sequential,
    Shape,
)
from gradinspect.contracts.spec.layers.containers import MAX_CALLS
from gradinspect.contracts.spec.layers.layer import axis
from gradinspect.contracts.spec.spec_error import Location, SpecError, name_layer, write_place
from gradinspect.contracts.spec.surroundings import Surroundings, initializers
from gradinspect.contracts.spec.tensors import MAX_ELEMENTS
from gradinspect.contracts.spelling import did_you_mean

MAX_NESTING = 32
MAX_PARAMETERS = 2**34  # elements: 64 GiB of float32, beyond any machine this runs on
MAX_PATH = 200  # characters; with torch's own suffixes it stays under the 256 of a report's names


@dataclass(frozen=True, slots=True)
class Call:
    """One layer of torch.nn, called once."""

    key: str  # its name in the module that holds it: a position, or the layer's `name`
    path: str  # its name in the whole model
    layer: Layer
    inferred: Mapping[str, object]
    input_shape: Shape
    output_shape: Shape
    parameters: Mapping[str, Shape]
    initializers: Mapping[str, Initializer]
    saved: int  # elements kept for backward, per sample
    frozen: bool
    location: Location  # in the spec's document
    tied_to: str | None = None  # path of the call whose weight this one shares


@dataclass(frozen=True, slots=True)
class Block:
    """A container with its rows of steps: one row, or one for each branch; `shortcut` only for Residual."""

    key: str
    path: str
    container: Container
    rows: tuple[tuple[Step, ...], ...]
    shortcut: tuple[Step, ...]
    output_shape: Shape


Step = Call | Block


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole spec, resolved."""

    steps: tuple[Step, ...]
    output_shape: Shape
    parameters: int  # elements, shared ones once
    vocabulary: int | None  # the smallest num_embeddings that reads the input's tokens

    def calls(self) -> Iterator[Call | Block]:
        """Yield layer calls in the order they run; Residual and Concat after what is inside them."""
        yield from _in_order(self.steps)

    def same_parameters(self, other: Plan) -> bool:
        """Whether both plans hold the same parameters under the same names."""
        mine, theirs = (
            {call.path: call.parameters for call in plan.calls() if isinstance(call, Call)} for plan in (self, other)
        )
        return mine == theirs


def _in_order(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Block):
            for row in step.rows:
                yield from _in_order(row)
            yield from _in_order(step.shortcut)
            if not isinstance(step.container, Sequential):
                yield step
        else:
            yield step


def make_plan(shape: Shape, *, tokens: bool, layers: Sequence[Entry], init: Init | None) -> Plan:
    """Follow one sample of `shape` through `layers`.

    Args:
        shape: the input without its batch axis.
        tokens: the input holds integers.

    Raises:
        SpecError: the first layer that does not fit.
    """
    walk = _Walk()
    start = _Signal(shape, tokens, None)
    context = Surroundings().entered(init, frozen=False, location=())
    steps, end = walk.row(layers, start, ("layers",), "", context)
    if end.tokens:
        raise SpecError(("layers",), "no layer turns the input's tokens into numbers; start with an Embedding")
    ties = walk.tied()
    shared = sum(prod(call.parameters["weight"]) for call, _ in walk.calls.values() if call.path in ties)
    steps = tuple(_with_ties(steps, ties)) if ties else steps
    return Plan(steps, end.shape, walk.parameters - shared, min(walk.vocabularies, default=None))


def _with_ties(steps: Sequence[Step], ties: Mapping[str, str]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Call):
            yield replace(step, tied_to=ties[step.path]) if step.path in ties else step
        else:
            rows = tuple(tuple(_with_ties(row, ties)) for row in step.rows)
            yield replace(step, rows=rows, shortcut=tuple(_with_ties(step.shortcut, ties)))


@dataclass(frozen=True, slots=True)
class _Signal:
    """What travels from layer to layer: one sample's shape, whether it holds tokens, and who sent it."""

    shape: Shape
    tokens: bool
    source: Location | None


@dataclass(slots=True)
class _Walk:
    """The state of one walk through a spec."""

    count: int = 0
    parameters: int = 0
    vocabularies: list[int] = field(default_factory=list)
    names: dict[str, Location] = field(default_factory=dict)
    calls: dict[str, tuple[Call, Location]] = field(default_factory=dict)  # by path, for ties
    paths: dict[str, str] = field(default_factory=dict)  # name → path
    ties: list[tuple[str, str, tuple[int, ...], Location]] = field(default_factory=list)
    loosened: dict[int, Layer] = field(default_factory=dict)

    def row(
        self, entries: Sequence[Entry], signal: _Signal, location: Location, prefix: str, context: Surroundings
    ) -> tuple[tuple[Step, ...], _Signal]:
        """Walk entries one after the other."""
        if context.depth > MAX_NESTING:
            raise SpecError(location, f"nested deeper than {MAX_NESTING} containers; flatten the spec")
        steps: list[Step] = []
        signal = self.extend(steps, entries, signal, location, prefix, context)
        return tuple(steps), signal

    def extend(
        self,
        steps: list[Step],
        entries: Sequence[Entry],
        signal: _Signal,
        location: Location,
        prefix: str,
        context: Surroundings,
    ) -> _Signal:
        for index, entry in enumerate(entries):
            here = (*location, index)
            if isinstance(entry, Repeat):
                if context.depth + len(context.copies) >= MAX_NESTING:
                    raise SpecError(here, f"nested deeper than {MAX_NESTING} containers; flatten the spec")
                for copy in range(entry.repeat):
                    inside = replace(context, copies=(*context.copies, copy))
                    signal = self.extend(steps, entry.layers, signal, (*here, "layers"), prefix, inside)
                continue
            key = self.key(entry, len(steps), here, prefix, context)
            step: Step
            if isinstance(entry, Layer):
                step = self.call(entry, key, signal, here, prefix + key, context)
                tokens = signal.tokens and entry.takes == "anything"
            else:
                step, tokens = self.block(entry, key, signal, here, prefix + key, context)
            signal = _Signal(step.output_shape, tokens, here)
            steps.append(step)
        return signal

    def key(self, entry: Layer | Container, position: int, here: Location, prefix: str, context: Surroundings) -> str:
        if entry.name is None:
            key = str(position)
        else:
            key = entry.name + "".join(f"_{copy}" for copy in context.copies)
            if key in self.names:
                raise SpecError((*here, "name"), f"{key!r} is already the name of {write_place(self.names[key])}")
            self.names[key] = here
            self.paths[key] = prefix + key
        if len(prefix) + len(key) > MAX_PATH:
            raise SpecError(here, f"the layer's path is longer than {MAX_PATH} characters; use shorter names")
        return key

    def counted(self, here: Location) -> None:
        self.count += 1
        if self.count > MAX_CALLS:
            raise SpecError(here, f"the spec has more than {MAX_CALLS} layer calls; repeat less often")

    def call(self, layer: Layer, key: str, signal: _Signal, here: Location, path: str, context: Surroundings) -> Call:
        self.counted(here)
        if any(context.copies) and layer.inferable:
            layer = self.loosen(layer)
        try:
            if signal.tokens and layer.takes == "floats":
                raise MisfitError("expects floating-point numbers; put an Embedding first", gets="integer tokens")
            if not signal.tokens and layer.takes == "tokens":
                raise MisfitError(
                    "expects integer tokens; set the input's dtype to int64", gets="floating-point numbers"
                )
            resolved = layer.resolve(signal.shape)
        except MisfitError as misfit:
            raise _fault(misfit, layer, signal, here, context) from None
        if prod(resolved.output) > MAX_ELEMENTS:
            raise SpecError(
                here, f"{name_layer(layer, here)} gives {list(resolved.output)}, over {MAX_ELEMENTS} elements"
            )
        self.parameters += sum(prod(shape) for shape in resolved.parameters.values())
        if self.parameters > MAX_PARAMETERS:
            raise SpecError(
                here, f"up to {name_layer(layer, here)} the model has more than {MAX_PARAMETERS} parameters"
            )
        if layer.takes == "tokens":
            self.vocabularies.append(int(getattr(layer, "num_embeddings", 1)))
        inside = context.entered(layer.init, frozen=layer.frozen, location=here)
        saved = prod(resolved.output) if resolved.saved is None else resolved.saved
        call = Call(
            key, path, layer, resolved.inferred, signal.shape, resolved.output, resolved.parameters,
            initializers(layer, resolved.parameters, inside, here), saved, inside.frozen, here,
        )  # fmt: skip
        self.calls[path] = call, here
        if layer.tie is not None:
            self.ties.append((path, layer.tie, context.copies, here))
        return call

    def loosen(self, layer: Layer) -> Layer:
        known = self.loosened.get(id(layer))
        if known is None:
            known = self.loosened[id(layer)] = layer.model_copy(update=dict.fromkeys(layer.inferable))
        return known

    def block(
        self, container: Container, key: str, signal: _Signal, here: Location, path: str, context: Surroundings
    ) -> tuple[Block, bool]:
        inside = context.entered(container.init, frozen=container.frozen, location=here)
        if isinstance(container, Concat):
            return self.concat(container, key, signal, here, path, inside)
        assert isinstance(container, Sequential | Residual)
        steps, end = self.row(container.layers, signal, (*here, "layers"), f"{path}.", inside)
        if isinstance(container, Sequential):
            return Block(key, path, container, (steps,), (), end.shape), end.tokens
        self.counted(here)
        shortcut: tuple[Step, ...] = ()
        around = signal
        if container.shortcut is not None:
            shortcut, around = self.row(container.shortcut, signal, (*here, "shortcut"), f"{path}.shortcut.", inside)
        label = name_layer(container, here)
        if end.tokens or around.tokens:
            raise SpecError(here, f"{label} cannot add integer tokens; put an Embedding first")
        if around.shape != end.shape:
            what = "its shortcut gives" if container.shortcut else "its input has"
            raise SpecError(
                here, f"{label} adds two shapes that differ: {what} {list(around.shape)}, its layers give "
                f"{list(end.shape)} from {write_place(end.source)}"
            )  # fmt: skip
        return Block(key, path, container, (steps,), shortcut, end.shape), False

    def concat(
        self, container: Concat, key: str, signal: _Signal, here: Location, path: str, inside: Surroundings
    ) -> tuple[Block, bool]:
        self.counted(here)
        rows, ends = [], []
        for index, branch in enumerate(container.branches):
            steps, end = self.row(branch, signal, (*here, "branches", index), f"{path}.{index}.", inside)
            rows.append(steps)
            ends.append(end)
        label = name_layer(container, here)
        if len({end.tokens for end in ends}) > 1:
            raise SpecError(here, f"{label} joins integer tokens and floating-point numbers")
        first = ends[0].shape
        try:
            dim = axis(container.dim, first, container)
        except MisfitError as misfit:
            raise SpecError((*here, "dim"), f"{label} {misfit.detail}") from None
        for index, end in enumerate(ends):
            if len(end.shape) != len(first) or any(
                mine != theirs for at, (mine, theirs) in enumerate(zip(end.shape, first, strict=True)) if at != dim
            ):
                raise SpecError(
                    (*here, "branches", index),
                    f"{label} joins on dim {container.dim}, where all other axes must agree: branch 0 gives "
                    f"{list(first)}, branch {index} gives {list(end.shape)}",
                )
        joined = (*first[:dim], sum(end.shape[dim] for end in ends), *first[dim + 1 :])
        return Block(key, path, container, tuple(rows), (), joined), ends[0].tokens

    def tied(self) -> dict[str, str]:
        """Find the call behind each `tie`: path → path of the call that owns the weight."""
        found: dict[str, str] = {}
        tying = {path for path, *_ in self.ties}
        for path, name, copies, here in self.ties:
            place: Location = (*here, "tie")
            target = self.paths.get(_nearest(name, copies, self.paths))
            mine = self.calls[path][0]
            if "weight" not in mine.parameters:
                raise SpecError(place, f"{name_layer(mine.layer, here)} has no weight to share")
            if target is None:
                raise SpecError(place, f"no layer is named {name!r}{did_you_mean(name, self.paths)}")
            owner = self.calls.get(target)
            if owner is None or "weight" not in owner[0].parameters:
                raise SpecError(place, f"{name!r} has no weight to share")
            if target == path:
                raise SpecError(place, "a layer cannot share its own weight")
            if target in tying:
                raise SpecError(place, f"{name!r} shares another layer's weight itself; name that layer instead")
            shapes = mine.parameters["weight"], owner[0].parameters["weight"]
            if shapes[0] != shapes[1]:
                raise SpecError(
                    place, f"the weight of {name_layer(mine.layer, here)} has shape {list(shapes[0])}, "
                    f"that of {name!r} has {list(shapes[1])}; they must agree to be shared"
                )  # fmt: skip
            found[path] = target
        return found


def _nearest(name: str, copies: tuple[int, ...], names: Mapping[str, str]) -> str:
    for length in range(len(copies), 0, -1):
        candidate = name + "".join(f"_{copy}" for copy in copies[:length])
        if candidate in names:
            return candidate
    return name


def _fault(misfit: MisfitError, layer: Layer, signal: _Signal, here: Location, context: Surroundings) -> SpecError:
    detail = f"{name_layer(layer, here)} {misfit.detail}"
    if misfit.gets is not None:
        detail += f" but gets {misfit.gets} from {write_place(signal.source)}"
    if any(context.copies):
        detail += f" (in copy {context.copies[-1] + 1} of a repeat)"
    given = misfit.field is not None and misfit.field in layer.model_fields_set
    return SpecError((*here, misfit.field) if given and misfit.field else here, detail)
