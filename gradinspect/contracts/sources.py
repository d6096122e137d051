"""Sources of a model: one class for each kind, distinguished by the field `kind`.

The field named after the kind holds the model itself: a document, or the digest of an uploaded file. To add a kind,
write a class here and list it in `AnySource`, its name in `SourceKind` (and `ArtifactKind`) and in `SourceFields`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from gradinspect.contracts.document import Digest, Document
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.tensors import SampleInput

SourceKind = Literal["spec", "torchscript", "exported"]
ArtifactKind = Literal["torchscript", "exported", "safetensors", "unknown"]


class SpecSource(Document):
    """A network that the engine builds from its description."""

    REFUSED: ClassVar = {"input": "input goes with torchscript; a spec has its own input"}

    kind: Literal["spec"] = "spec"
    spec: ModelSpec
    weights: Digest | None = Field(default=None, description="safetensors with the spec's state_dict")


class FileSource(Document):
    """An uploaded file that holds a whole model: program and weights.

    Attributes:
        input: one input without the batch axis, for synthetic data; None where the file declares its inputs.
    """

    REFUSED: ClassVar[dict[str, str]] = {"weights": "weights goes with spec; an uploaded model carries its own"}

    kind: str
    input: SampleInput | None = None

    @property
    def file(self) -> str:
        """Digest of the file."""
        return str(getattr(self, self.kind))


class TorchScriptSource(FileSource):
    """A file that `torch.jit.save` wrote."""

    kind: Literal["torchscript"] = "torchscript"
    torchscript: Digest


class ExportedSource(FileSource):
    """A file that `torch.export.save` wrote (.pt2), which declares its inputs itself."""

    REFUSED: ClassVar = {**FileSource.REFUSED, "input": "input goes with torchscript; an exported program has its own"}

    kind: Literal["exported"] = "exported"
    exported: Digest


AnySource = SpecSource | TorchScriptSource | ExportedSource
ModelSource = Annotated[AnySource, Field(discriminator="kind")]
SOURCES: dict[str, type[AnySource]] = {
    str(source.model_fields["kind"].default): source for source in get_args(AnySource)
}
FILE_KINDS = tuple(kind for kind, source in SOURCES.items() if issubclass(source, FileSource))


class SourceFields(Document):
    """A source in HTTP documents: one of the fields named after the kinds, and the fields that go with it."""

    spec: ModelSpec | None = None
    torchscript: Digest | None = None
    exported: Digest | None = Field(default=None, description="a .pt2 file of torch.export.save")
    weights: Digest | None = Field(default=None, description="safetensors with the spec's state_dict")
    input: SampleInput | None = Field(
        default=None,
        description="Without the batch axis. Of TorchScript, which may leave it out: for synthetic data.",
    )

    @property
    def given(self) -> dict[str, object]:
        """Fields that are set."""
        return {name: value for name in SourceFields.model_fields if (value := getattr(self, name)) is not None}


class SourceRequest(SourceFields):
    """`SourceFields` that name exactly one source."""

    @property
    def source(self) -> AnySource:
        """Source that the fields name."""
        return SOURCES[next(kind for kind in SOURCES if kind in self.given)].model_validate(self.given)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        kinds = [kind for kind in SOURCES if kind in self.given]
        if len(kinds) != 1:
            raise ValueError(f"give either {' or '.join(SOURCES)}")
        refused = SOURCES[kinds[0]].REFUSED
        for name in self.given.keys() & refused.keys():
            raise ValueError(refused[name])
        return self
