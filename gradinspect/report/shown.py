"""The report of the public interface: the contract's fields, with every form of showing them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from shutil import get_terminal_size
from typing import Any, Literal, Protocol

from pydantic import PrivateAttr

from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.report import report as contract
from gradinspect.contracts.report.optimizer_code import optimizer_code, scaled_groups
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.contracts.report.sections import LrScales
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.columns import flat_fields, value_at
from gradinspect.report.html.render import notebook_html, render_html
from gradinspect.report.text.markdown import render_markdown
from gradinspect.report.text.terminal import WIDEST, render_terminal
from gradinspect.report.words.headline import headline


class HasParameters(Protocol):
    """A model with torch.nn.Module's way to list its parameters."""

    def named_parameters(
        self, *, remove_duplicate: bool = True
    ) -> Iterable[tuple[str, Any]]: ...  # Any: torch.nn.Parameter, because this module does not import torch


class Report(contract.Report):
    """Measurements and the verdict. `print(report)` and a notebook show it; `model_dump()` returns it as data."""

    _settings: InspectionSettings | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, report: contract.Report, *, settings: InspectionSettings | None = None) -> Report:
        """Wrap a report of the contract, without a copy of its parts.

        Args:
            report: the report.
            settings: what was requested; HTML shows it.
        """
        shown = cls.model_construct(
            _fields_set=set(report.model_fields_set),
            **{name: getattr(report, name) for name in contract.Report.model_fields},
        )
        shown._settings = settings
        return shown

    @property
    def settings(self) -> InspectionSettings | None:
        """Return what was requested; None where it is not known."""
        return self._settings

    def __str__(self) -> str:
        """Write the terminal form, as wide as the terminal, without colours."""
        return render_terminal(self, width=min(get_terminal_size((100, 24)).columns, WIDEST), color=False)

    def __repr__(self) -> str:
        """Write one line, for debuggers and logs."""
        return f"<Report {self.verdict}: {headline(self)}>"

    def _repr_html_(self) -> str:
        """Write the form for notebooks."""
        return notebook_html(self, settings=self.settings)

    def to_html(self) -> str:
        """Write a page that needs no script and no other file."""
        return render_html(self, settings=self.settings)

    def to_markdown(self) -> str:
        """Write markdown, for a pull request or a CI summary."""
        return render_markdown(self)

    def to_frame(self, rows: Literal["layers", "parameters"] = "layers") -> Any:  # Any: pandas is not a dependency
        """Return the layer calls or the parameters as a pandas DataFrame.

        Nested fields are joined by underscores, as in the API's filters and CSV files: `signal_rms`.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ModuleNotFoundError as error:
            raise ImportError("to_frame() needs pandas: pip install 'gradinspect[pandas]'") from error
        chosen = self.layers if rows == "layers" else self.parameters
        paths = list(flat_fields(LayerMeasurement if rows == "layers" else ParameterMeasurement))
        return pandas.DataFrame([{"_".join(path): value_at(row, path) for path in paths} for row in chosen])

    def push(
        self,
        url: str,
        *,
        key: str | None = None,
        name: str | None = None,
        labels: dict[str, str] | None = None,
        policy: str = "default",
    ) -> str:
        """Store this report on a service, where it is judged, compared and kept as those that are measured there.

        The numbers and the names of layers are sent; the model and its data are not.

        Args:
            url: address of the service.
            key: an API key of it, `gi_…`.
            name: of the model; by default the report's.
            labels: of the inspection that it becomes.
            policy: name or id of a policy there.

        Returns:
            The address of its page.

        Raises:
            gradinspect.client.GradinspectError: the service does not answer, or refuses it.
        """
        # By its name: the client returns these reports, and this module imports nothing of it.
        client = import_module("gradinspect.client").Client(url, key=key)
        with client:
            stored = client.reports.push(self, name=name, labels=labels, policy=policy)
        return f"{client.base_url}{stored.links.page}"

    def optimizer_code(self, base_lr: float | None = None) -> str:
        """Write the learning-rate suggestion as Python source that runs on a variable `model`.

        Raises:
            ProblemError: `not_requested` when the report holds no suggestion.
        """
        return optimizer_code(self._scales(), optimizer=self.optimizer, base_lr=base_lr)

    def param_groups(self, model: HasParameters, base_lr: float) -> list[dict[str, Any]]:
        """Build parameter groups for any optimizer of torch.optim, each with its own `lr`.

        Tied tensors are listed once. Parameters that the suggestion does not name train at `base_lr`; all of them do
        when the suggestion is to keep one rate.

        Args:
            model: the model that was inspected, or one with the same parameters.
            base_lr: the learning rate of a scale of 1.

        Raises:
            ProblemError: `not_requested` when the report holds no suggestion, `invalid_request` when the model lacks a
                parameter that the suggestion names.
        """
        named = dict(model.named_parameters(remove_duplicate=False))
        group_of: dict[int, int] = {}
        groups: list[dict[str, Any]] = []
        for index, group in enumerate(scaled_groups(self._scales())):
            missing = [name for name in group.parameters if name not in named]
            if missing:
                detail = f"the model has no parameter {missing[0]!r}; give the model that was inspected"
                raise ProblemError("invalid_request", detail, errors=[FieldError("/model", detail)])
            group_of |= {_memory(named[name]): index for name in group.parameters}
            groups.append({"params": [], "lr": base_lr * (group.scale or 1.0)})
        rest: dict[str, Any] = {"params": [], "lr": base_lr}
        for _, tensor in model.named_parameters():
            index = group_of.get(_memory(tensor), -1)
            (groups[index] if index >= 0 else rest)["params"].append(tensor)
        return [group for group in (*groups, rest) if group["params"]]

    def _scales(self) -> LrScales:
        if self.lr_scales is None:
            detail = "this report holds no learning-rate suggestion; inspect with lr_scales=True"
            raise ProblemError("not_requested", detail)
        if self.lr_scales.status == "undetermined" and not self.lr_scales.groups:
            reason = self.lr_scales.reason or "no reason was given"
            raise ProblemError("not_requested", f"there is no learning-rate suggestion: {reason}")
        return self.lr_scales


def _memory(tensor: Any) -> int:
    """Identify a tensor by its memory, or by the object where it has none."""
    return int(tensor.data_ptr()) or id(tensor)
