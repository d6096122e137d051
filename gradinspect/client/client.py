"""The client: one object for each service, with one attribute for each kind of resource."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import httpx

from gradinspect.client.artifacts import Artifacts
from gradinspect.client.calls import Calls
from gradinspect.client.errors import GradinspectError
from gradinspect.client.inspections import Inspections, Progress
from gradinspect.client.models import Models
from gradinspect.client.policies import Policies
from gradinspect.client.reports import Reports
from gradinspect.client.runs import Runs
from gradinspect.client.transport import RetryingTransport
from gradinspect.contracts.document import from_json, from_python
from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.report.comparison import Comparison
from gradinspect.contracts.request.request import MODEL_ID, InspectionRequest
from gradinspect.contracts.sources import FILE_KINDS
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.tensors import SampleInput
from gradinspect.contracts.wire.resources import LayerRow, ParameterRow
from gradinspect.intake.recognise import recognise
from gradinspect.report.shown import Report
from gradinspect.version import __version__

_ZIP = b"PK\x03\x04"  # how a TorchScript file begins
ModelLike = str | Path | ModelSpec | dict[str, Any]  # Any: a spec is JSON until it is validated


class RequestFields(TypedDict, total=False):
    """The optional fields of the request for an inspection."""

    loss: str
    optimizer: dict[str, Any]  # Any: JSON until it is validated, here and below
    precision: dict[str, Any]
    diagnostics: Sequence[str]
    lr_scales: bool | dict[str, Any]
    policy: str
    mode: str
    seeds: int
    device: str
    seed: int
    labels: dict[str, str]


class Client:
    """A gradinspect service.

        with Client("http://127.0.0.1:8080") as client:
            report = client.inspect("spec.json", optimizer={"type": "sgd", "lr": 0.1})

    `artifacts`, `models`, `inspections`, `reports`, `runs` and `policies` hold the calls for one kind of resource each.
    Errors are in `gradinspect.client.errors`. Requests that can be repeated safely are retried.

    Args:
        base_url: of the service.
        timeout: seconds for one answer; it does not limit how long an inspection is waited for.
        key: an API key of the service, `gi_…`.
        headers: sent with every request.
        attempts: the largest number of times that a request is sent.
        transport: sends the requests; for tests or a proxy.
        sleep: pauses for a number of seconds, between attempts and between polls.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        headers: dict[str, str] | None = None,
        attempts: int = 5,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            detail = f"{base_url!r} is not a service's address; it looks like http://127.0.0.1:8080"
            raise ProblemError("invalid_request", detail, errors=[FieldError("/base_url", detail)])
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url,
            timeout=timeout,
            headers={"User-Agent": f"gradinspect/{__version__}", **authorization(key), **(headers or {})},
            transport=RetryingTransport(transport or httpx.HTTPTransport(), attempts=attempts, sleep=sleep),
        )
        calls = self._calls = Calls(self._http)
        self.artifacts, self.models, self.policies = Artifacts(calls), Models(calls), Policies(calls)
        self.inspections = Inspections(calls, sleep=sleep)
        self.reports, self.runs = Reports(calls), Runs(calls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def inspect(
        self,
        model: ModelLike,
        *,
        data: str | Path | bytes | dict[str, Any] | None = None,
        inputs: Sequence[str] = (),
        target: str | None = None,
        name: str | None = None,
        weights: str | Path | bytes | None = None,
        input: SampleInput | dict[str, Any] | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
        **fields: Unpack[RequestFields],
    ) -> Report:
        """Inspect a model and wait for the report.

        Args:
            model: a spec (dict, `ModelSpec`, or the path of its JSON), the path of a .pt2 or TorchScript
                file, or an mdl_ id.
            data: a safetensors file with the batch, which is uploaded; or the document of synthetic data.
            inputs: names of the tensors in the file that the model is called with.
            target: name of the tensor that the output is compared with.
            name: of the model; by default the name of the file.
            weights: a safetensors file with a spec's state_dict.
            input: of a TorchScript file, without the batch axis, for synthetic data.
            timeout: seconds to wait; None waits without limit.
            progress: called with the stage and the fraction done.
            fields: other fields of the request: loss, optimizer, lr_scales, seeds, labels …

        Raises:
            ProblemError: the request is wrong and was not sent.
            GradinspectError: see `client.errors`.

        An interrupt (Ctrl-C) cancels the inspection.
        """
        body: dict[str, Any] = {  # Any: JSON until it is validated
            "model": self._model(model, name, weights, input), **fields,
        }  # fmt: skip
        if fields.get("lr_scales") is True:
            body["lr_scales"] = {}
        document = self._data(data, inputs, target)
        if document is not None:
            body["data"] = document
        request = from_python(InspectionRequest, body)
        submitted = self.inspections.submit(request)
        try:
            self.inspections.wait(submitted.id, seconds=timeout, progress=progress)
        except KeyboardInterrupt:
            with suppress(GradinspectError):
                self.inspections.cancel(submitted.id)
            raise
        return Report.of(self.inspections.report(submitted.id), settings=request.settings())

    def compare(self, base: str, head: str, *, policy: str | None = None) -> Comparison:
        """Compare two inspections.

        Args:
            base, head: their ids.
            policy: judge both by this policy first.
        """
        query = {"base": base, "head": head, "policy": policy}
        return self._calls.read(Comparison, "GET", "/v1/comparisons", query=query)

    def layers(self, **filters: Any) -> Iterator[LayerRow]:  # Any: texts and numbers
        """Yield layer calls of all inspections. Every number of a row is a filter: `backward_gain__lt=0.1`."""
        return self._calls.pages(LayerRow, "/v1/layers", filters)

    def parameters(self, **filters: Any) -> Iterator[ParameterRow]:  # Any: texts and numbers
        """Yield parameters of all inspections. Every number of a row is a filter: `grad_norm__lt=1e-7`."""
        return self._calls.pages(ParameterRow, "/v1/parameters", filters)

    def _model(
        self,
        model: ModelLike,
        name: str | None,
        weights: str | Path | bytes | None,
        input: SampleInput | dict[str, Any] | None,
    ) -> str | dict[str, Any]:
        """Return the request's `model`; upload and register what the service does not have."""
        if isinstance(model, str) and MODEL_ID.fullmatch(model):
            return model
        if isinstance(model, str | Path):
            path = Path(model)
            name = name or path.name[:256]
            if (kind := _kind(path)) in FILE_KINDS:
                stored = self.artifacts.upload(path).id
                return self.models.register_file(kind, stored, name=name, input=input).id
            model = from_json(ModelSpec, _read(path), code="invalid_spec")
        if isinstance(model, dict):
            model = from_python(ModelSpec, model, code="invalid_spec")
        if name is None and weights is None:
            return {"spec": model.model_dump(mode="json", exclude_none=True)}
        artifact = self.artifacts.upload(weights).id if weights is not None else None
        return self.models.register(model, name=name, weights=artifact).id

    def _data(
        self, data: str | Path | bytes | dict[str, Any] | None, inputs: Sequence[str], target: str | None
    ) -> dict[str, Any] | None:
        if data is None or isinstance(data, dict):
            return data
        if not inputs:
            detail = "name the tensors of the file that the model is called with"
            raise ProblemError("invalid_request", detail, errors=[FieldError("/inputs", detail)])
        stored = self.artifacts.upload(data).id
        return {"artifact": stored, "inputs": list(inputs), **({"target": target} if target is not None else {})}


def authorization(key: str | None) -> dict[str, str]:
    """Return the header that an API key is sent in; none without a key."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProblemError("invalid_request", f"{path} cannot be read: {error.strerror or error}") from None


def _kind(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return recognise(file)
    except OSError as error:
        raise ProblemError("invalid_request", f"{path} cannot be read: {error.strerror or error}") from None
