"""Registered models: specs, exported programs and TorchScript files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradinspect.client.calls import Calls
from gradinspect.contracts.document import from_python
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.tensors import SampleInput
from gradinspect.contracts.wire.resources import ModelRegistration, ModelResource, SpecDescription

SpecLike = ModelSpec | dict[str, Any]  # Any: JSON until it is validated


class Models:
    """`client.models`: register, get, list, validate, delete."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def register(
        self,
        spec: SpecLike | None = None,
        *,
        name: str | None = None,
        torchscript: str | None = None,
        exported: str | None = None,
        weights: str | None = None,
        input: SampleInput | dict[str, Any] | None = None,
    ) -> ModelResource:
        """Register a spec, or an uploaded file.

        Args:
            spec: a spec, a preset, or their dict.
            name: a display name.
            torchscript: digest of an uploaded file, instead of a spec.
            exported: likewise, of a .pt2 file.
            weights: digest of uploaded safetensors with the spec's state_dict.
            input: of a TorchScript file, without the batch axis, for synthetic data.

        Raises:
            ProblemError: the registration is wrong and was not sent.
            GradinspectError: the service refuses it.
        """
        return self._register(
            name=name, spec=_json(spec), torchscript=torchscript, exported=exported, weights=weights, input=_json(input)
        )

    def register_file(
        self,
        kind: str,
        digest: str,
        *,
        name: str | None = None,
        input: SampleInput | dict[str, Any] | None = None,
    ) -> ModelResource:
        """Register an uploaded file of any kind that holds a model.

        Args:
            kind: as `ArtifactResource.kind` and `gradinspect.intake.recognise` name it.
            digest: of the file.
            name: a display name.
            input: without the batch axis, for synthetic data.

        Raises:
            ProblemError, GradinspectError: as for `register`.
        """
        return self._register(name=name, input=_json(input), **{kind: digest})

    def get(self, model_id: str) -> ModelResource:
        """Return a model."""
        return self._calls.read(ModelResource, "GET", f"/v1/models/{model_id}")

    def list(self, *, name: str | None = None, limit: int | None = None) -> Iterator[ModelResource]:
        """Yield models without their specs, newest first. `name` is exact, `limit` the size of a page."""
        return self._calls.pages(ModelResource, "/v1/models", {"name": name, "limit": limit})

    def validate(self, spec: SpecLike) -> SpecDescription:
        """Return what a spec would build; the service stores nothing.

        Raises:
            InvalidRequest: the spec is wrong; `errors` names each layer.
        """
        return self._calls.read(SpecDescription, "POST", "/v1/models:validate", json={"spec": _json(spec)})

    def delete(self, model_id: str) -> None:
        """Delete a model.

        Raises:
            Conflict: an inspection of the model has not ended.
        """
        self._calls.send("DELETE", f"/v1/models/{model_id}")

    def _register(self, **fields: Any) -> ModelResource:
        body = from_python(ModelRegistration, {name: value for name, value in fields.items() if value is not None})
        return self._calls.read(ModelResource, "POST", "/v1/models", json=_json(body))


def _json(value: Any) -> Any:  # Any: a document, JSON or nothing
    if isinstance(value, dict) or value is None:
        return value
    return value.model_dump(mode="json", exclude_none=True)
