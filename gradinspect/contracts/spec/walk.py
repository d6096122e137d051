"""The plan of a spec, made by following one sample through every layer.

An error names the layer that does not fit, the expected input, the actual input and its origin.
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
    Resolved,
    Sequential,
    Shape,
)
from gradinspect.contracts.spec.layers.containers import MAX_CALLS
from gradinspect.contracts.spec.layers.layer import axis
from gradinspect.contracts.spec.names import Names, Ties
from gradinspect.contracts.spec.plan import Block, Call, Plan, Step
from gradinspect.contracts.spec.spec_error import Location, SpecError, name_layer, write_place
from gradinspect.contracts.spec.surroundings import Surroundings, initializers
from gradinspect.contracts.spec.tensors import MAX_ELEMENTS

MAX_NESTING = 32
MAX_TENSORS = 10_000  # chosen: two for each call; one recurrent layer may have 800, and each takes 3 µs
MAX_PARAMETERS = 2**34  # elements: 64 GiB of float32, beyond any machine this runs on


def make_plan(shape: Shape, *, tokens: bool, layers: Sequence[Entry], init: Init | None) -> Plan:
    """Follow one sample of `shape` through `layers`.

    Args:
        shape: the input without its batch axis.
        tokens: the input holds integers.
        layers: the entries of the spec.
        init: for every layer; None: torch's defaults.

    Raises:
        SpecError: the first layer that does not fit.
    """
    walk = _Walk()
    surroundings = Surroundings().entered(init, frozen=False, location=())
    start = _Here(("layers",), "", _Signal(shape, tokens, None), surroundings)
    steps, end = walk.row(layers, start)
    if end.tokens:
        raise SpecError(("layers",), "no layer turns the input's tokens into numbers; start with an Embedding")
    owners = walk.ties.resolve(walk.calls, walk.names.paths)
    shared = sum(prod(walk.calls[path].parameters["weight"]) for path in owners)
    steps = tuple(_with_ties(steps, owners)) if owners else steps
    return Plan(steps, end.shape, walk.limits.parameters - shared, min(walk.vocabularies, default=None))


def _with_ties(steps: Sequence[Step], owners: Mapping[str, str]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Call):
            yield replace(step, tied_to=owners[step.path]) if step.path in owners else step
        else:
            rows = tuple(tuple(_with_ties(row, owners)) for row in step.rows)
            yield replace(step, rows=rows, shortcut=tuple(_with_ties(step.shortcut, owners)))


@dataclass(frozen=True, slots=True)
class _Signal:
    """What a layer receives: one sample's shape, whether it holds tokens, and the layer that it comes from."""

    shape: Shape
    tokens: bool
    source: Location | None

    @property
    def kind(self) -> tuple[Shape, bool]:
        """Everything but the source."""
        return self.shape, self.tokens


@dataclass(frozen=True, slots=True)
class _Here:
    """The current position of a walk.

    Attributes:
        location: of the layer or list of layers in the document.
        path: of the layer in the model; for a list of layers, their common prefix, which ends in a dot.
        signal: the input.
        surroundings: the inherited settings.
    """

    location: Location
    path: str
    signal: _Signal
    surroundings: Surroundings

    def inside(self, *location: int | str, path: str = "") -> _Here:
        """Return the position of a list of layers in this container; `path` is appended."""
        return replace(self, location=(*self.location, *location), path=self.path + path)


@dataclass(slots=True)
class _Limits:
    """The part of the largest accepted size that a spec has used."""

    calls: int = 0
    tensors: int = 0
    parameters: int = 0

    def count_call(self, location: Location) -> None:
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise SpecError(location, f"the spec has more than {MAX_CALLS} layer calls; repeat less often")

    def count_elements(self, layer: Layer, resolved: Resolved, location: Location) -> None:
        if prod(resolved.output) > MAX_ELEMENTS:
            label = name_layer(layer, location)
            raise SpecError(location, f"{label} gives {list(resolved.output)}, over {MAX_ELEMENTS} elements")
        self.tensors += len(resolved.parameters)
        if self.tensors > MAX_TENSORS:
            label = name_layer(layer, location)
            raise SpecError(location, f"up to {label} the model has more than {MAX_TENSORS} parameter tensors")
        for shape in resolved.parameters.values():
            self.parameters += prod(shape)
        if self.parameters > MAX_PARAMETERS:
            label = name_layer(layer, location)
            raise SpecError(location, f"up to {label} the model has more than {MAX_PARAMETERS} parameters")


@dataclass(frozen=True, slots=True)
class _Known:
    """The latest copy of a layer: what it received and inherited, and what followed."""

    signal: tuple[Shape, bool]
    inside: Surroundings
    resolved: Resolved
    initializers: Mapping[str, Initializer]


@dataclass(slots=True)
class _Walk:
    """One walk through a spec."""

    names: Names = field(default_factory=Names)
    ties: Ties = field(default_factory=Ties)
    limits: _Limits = field(default_factory=_Limits)
    calls: dict[str, Call] = field(default_factory=dict)  # by path
    vocabularies: list[int] = field(default_factory=list)
    loosened: dict[int, Layer] = field(default_factory=dict)
    latest: dict[int, _Known] = field(default_factory=dict)  # by identity of the layer

    def row(self, entries: Sequence[Entry], here: _Here) -> tuple[tuple[Step, ...], _Signal]:
        """Walk entries in order; return their steps and the output of the last one."""
        if here.surroundings.depth > MAX_NESTING:
            raise _too_deep(here.location)
        steps: list[Step] = []
        signal = self._extend(steps, entries, here)
        return tuple(steps), signal

    def _extend(self, steps: list[Step], entries: Sequence[Entry], here: _Here) -> _Signal:
        signal = here.signal
        path, surroundings = here.path, here.surroundings
        copies = surroundings.copies
        for index, entry in enumerate(entries):
            location = (*here.location, index)
            if isinstance(entry, Repeat):
                signal = self._repeat(steps, entry, _Here(location, path, signal, surroundings))
                continue
            key = self.names.key(entry, position=len(steps), prefix=path, copies=copies, location=location)
            at = _Here(location, path + key, signal, surroundings)
            step: Step
            if isinstance(entry, Layer):
                step = self._call(entry, key, at)
                tokens = signal.tokens and entry.takes == "anything"
            else:
                step, tokens = self._block(entry, key, at)
            signal = _Signal(step.output_shape, tokens, location)
            steps.append(step)
        return signal

    def _repeat(self, steps: list[Step], entry: Repeat, here: _Here) -> _Signal:
        outer = here.surroundings
        if outer.depth + len(outer.copies) >= MAX_NESTING:
            raise _too_deep(here.location)
        signal, location = here.signal, (*here.location, "layers")
        for copy in range(entry.repeat):
            surroundings = replace(outer, copies=(*outer.copies, copy))
            signal = self._extend(steps, entry.layers, _Here(location, here.path, signal, surroundings))
        return signal

    def _call(self, layer: Layer, key: str, here: _Here) -> Call:
        self.limits.count_call(here.location)
        copies = here.surroundings.copies
        if any(copies) and layer.inferable:
            layer = self._loosen(layer)
        inside = here.surroundings
        if layer.init is not None or layer.frozen:
            inside = inside.entered(layer.init, frozen=layer.frozen, location=here.location)
        resolved, filled = self._resolved(layer, here, inside)
        self.limits.count_elements(layer, resolved, here.location)
        if layer.takes == "tokens":
            self.vocabularies.append(int(getattr(layer, "num_embeddings", 1)))
        call = Call(
            key=key,
            path=here.path,
            layer=layer,
            inferred=resolved.inferred,
            input_shape=here.signal.shape,
            output_shape=resolved.output,
            parameters=resolved.parameters,
            initializers=filled,
            saved=prod(resolved.output) if resolved.saved is None else resolved.saved,
            frozen=inside.frozen,
            location=here.location,
        )
        self.calls[here.path] = call
        if layer.tie is not None:
            self.ties.requests.append((call, copies))
        return call

    def _resolved(self, layer: Layer, here: _Here, inside: Surroundings) -> tuple[Resolved, Mapping[str, Initializer]]:
        """Return a layer's shapes and initialisers: those of the copy before it where the same arrives again."""
        known = self.latest.get(id(layer))
        if known is not None and known.signal == here.signal.kind and inside.same_init(known.inside):
            return known.resolved, known.initializers
        resolved = _resolve(layer, here)
        filled = initializers(layer, resolved.parameters, inside, here.location)
        self.latest[id(layer)] = _Known(here.signal.kind, inside, resolved, filled)
        return resolved, filled

    def _loosen(self, layer: Layer) -> Layer:
        """Return the layer without inferable sizes; the same object for the same layer."""
        known = self.loosened.get(id(layer))
        if known is None:
            known = self.loosened[id(layer)] = layer.model_copy(update=dict.fromkeys(layer.inferable))
        return known

    def _block(self, container: Container, key: str, here: _Here) -> tuple[Block, bool]:
        """Walk a container; return it and whether it outputs tokens."""
        surroundings = here.surroundings.entered(container.init, frozen=container.frozen, location=here.location)
        inner = replace(here, surroundings=surroundings)
        if isinstance(container, Concat):
            return self._concat(container, key, inner)
        if isinstance(container, Residual):
            return self._residual(container, key, inner), False
        assert isinstance(container, Sequential)
        steps, end = self.row(container.layers, inner.inside("layers", path="."))
        return Block(key, here.path, container, (steps,), (), end.shape), end.tokens

    def _residual(self, container: Residual, key: str, here: _Here) -> Block:
        steps, end = self.row(container.layers, here.inside("layers", path="."))
        self.limits.count_call(here.location)
        shortcut: tuple[Step, ...] = ()
        around = here.signal
        if container.shortcut is not None:
            shortcut, around = self.row(container.shortcut, here.inside("shortcut", path=".shortcut."))
        label = name_layer(container, here.location)
        if end.tokens or around.tokens:
            raise SpecError(here.location, f"{label} cannot add integer tokens; put an Embedding first")
        if around.shape != end.shape:
            what = "its shortcut gives" if container.shortcut else "its input has"
            detail = (
                f"{label} adds two shapes that differ: {what} {list(around.shape)}, its layers give {list(end.shape)} "
                f"from {write_place(end.source)}"
            )
            raise SpecError(here.location, detail)
        return Block(key, here.path, container, (steps,), shortcut, end.shape)

    def _concat(self, container: Concat, key: str, here: _Here) -> tuple[Block, bool]:
        self.limits.count_call(here.location)
        branches = [
            self.row(branch, here.inside("branches", index, path=f".{index}."))
            for index, branch in enumerate(container.branches)
        ]
        ends = [end for _, end in branches]
        label = name_layer(container, here.location)
        if len({end.tokens for end in ends}) > 1:
            raise SpecError(here.location, f"{label} joins integer tokens and floating-point numbers")
        first = ends[0].shape
        try:
            dim = axis(container.dim, first, container)
        except MisfitError as misfit:
            raise SpecError((*here.location, "dim"), f"{label} {misfit.detail}") from None
        for index, end in enumerate(ends):
            if not _agree(end.shape, first, except_on=dim):
                detail = (
                    f"{label} joins on dim {container.dim}, where all other axes must agree: branch 0 gives "
                    f"{list(first)}, branch {index} gives {list(end.shape)}"
                )
                raise SpecError((*here.location, "branches", index), detail)
        joined = (*first[:dim], sum(end.shape[dim] for end in ends), *first[dim + 1 :])
        return Block(key, here.path, container, tuple(steps for steps, _ in branches), (), joined), ends[0].tokens


def _resolve(layer: Layer, here: _Here) -> Resolved:
    """Resolve a layer's shapes for its input."""
    try:
        if here.signal.tokens and layer.takes == "floats":
            raise MisfitError("expects floating-point numbers; put an Embedding first", gets="integer tokens")
        if not here.signal.tokens and layer.takes == "tokens":
            raise MisfitError("expects integer tokens; set the input's dtype to int64", gets="floating-point numbers")
        return layer.resolve(here.signal.shape)
    except MisfitError as misfit:
        raise _misfit_error(misfit, layer, here) from None


def _misfit_error(misfit: MisfitError, layer: Layer, here: _Here) -> SpecError:
    detail = f"{name_layer(layer, here.location)} {misfit.detail}"
    if misfit.gets is not None:
        detail += f" but gets {misfit.gets} from {write_place(here.signal.source)}"
    copies = here.surroundings.copies
    if any(copies):
        detail += f" (in copy {copies[-1] + 1} of a repeat)"
    is_written = misfit.field is not None and misfit.field in layer.model_fields_set
    return SpecError((*here.location, misfit.field) if is_written and misfit.field else here.location, detail)


def _too_deep(location: Location) -> SpecError:
    return SpecError(location, f"nested deeper than {MAX_NESTING} containers; flatten the spec")


def _agree(shape: Shape, other: Shape, *, except_on: int) -> bool:
    return len(shape) == len(other) and all(
        ours == theirs for index, (ours, theirs) in enumerate(zip(shape, other, strict=True)) if index != except_on
    )
