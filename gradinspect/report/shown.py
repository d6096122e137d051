"""The report that people hold: the contract's fields, attribute for attribute, with every form of showing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from shutil import get_terminal_size
from typing import Any, Literal, Protocol

from pydantic import BaseModel, PrivateAttr

from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.report import report as contract
from gradinspect.contracts.report.sections import LrScales
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.html.html import notebook_html, render_html
from gradinspect.report.optimizer_code import optimizer_code, scaled_groups
from gradinspect.report.text.markdown import render_markdown
from gradinspect.report.text.terminal import WIDEST, render_terminal
from gradinspect.report.words.headline import headline


class HasParameters(Protocol):
    """What `param_groups` needs of a model: torch.nn.Module's own way to list its parameters."""

    def named_parameters(
        self, *, remove_duplicate: bool = True
    ) -> Iterable[tuple[str, Any]]: ...  # Any: a torch.nn.Parameter, in a module that does not import torch


class Report(contract.Report):
    """Measurements, judged. `print(report)` and a notebook show it; `model_dump()` gives it as data."""

    _policy: Policy | None = PrivateAttr(default=None)
    _settings: InspectionSettings | None = PrivateAttr(default=None)

    @classmethod
    def of(
        cls, report: contract.Report, *, policy: Policy | None = None, settings: InspectionSettings | None = None
    ) -> Report:
        """Dress a report of the contract; what judged it and what was asked for go into the long forms.

        Cost: none to speak of; the parts are shared.
        """
        shown = cls.model_construct(
            _fields_set=set(report.model_fields_set),
            **{name: getattr(report, name) for name in contract.Report.model_fields},
        )
        shown._policy, shown._settings = policy, settings
        return shown

    def __str__(self) -> str:
        """The terminal form, as wide as the terminal, without colours."""
        return render_terminal(self, width=min(get_terminal_size((100, 24)).columns, WIDEST), color=False)

    def __repr__(self) -> str:
        """One line, for debuggers and logs."""
        return f"<Report {self.verdict}: {headline(self)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return notebook_html(self, policy=self._policy, settings=self._settings)

    def to_html(self) -> str:
        """A page that stands alone: no script, no other file."""
        return render_html(self, policy=self._policy, settings=self._settings)

    def to_markdown(self) -> str:
        """The report for a pull request or a CI summary."""
        return render_markdown(self)

    def to_frame(self, rows: Literal["layers", "parameters"] = "layers") -> Any:  # Any: pandas is not a dependency
        """The layer calls or the parameters as a pandas DataFrame, nested fields joined by underscores.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ModuleNotFoundError as error:
            raise ImportError("to_frame() needs pandas: pip install 'gradinspect[pandas]'") from error
        chosen = self.layers if rows == "layers" else self.parameters
        return pandas.DataFrame([dict(flattened(row)) for row in chosen])

    def optimizer_code(self, base_lr: float | None = None) -> str:
        """The learning-rate suggestion as Python source that runs on a variable `model`.

        Raises:
            ProblemError: `not_requested` when the report holds no suggestion.
        """
        return optimizer_code(self._scales(), optimizer=self.optimizer, base_lr=base_lr)

    def param_groups(self, model: HasParameters, base_lr: float) -> list[dict[str, Any]]:  # Any: as torch.optim has it
        """Groups for any optimizer of torch.optim, each with its own `lr`.

        Tied tensors are listed once; parameters that the suggestion does not name train at `base_lr`, and so do all
        when the suggestion is to keep one rate.

        Args:
            model: the model that was inspected, or one with the same parameters.
            base_lr: the rate that a scale of 1 means.

        Raises:
            ProblemError: `not_requested` when the report holds no suggestion, `invalid_request` when the model lacks a
                parameter that the suggestion names.
        """
        named = dict(model.named_parameters(remove_duplicate=False))
        group_of: dict[int, int] = {}
        groups: list[dict[str, Any]] = []  # Any: tensors and a number
        for index, group in enumerate(scaled_groups(self._scales())):
            missing = [name for name in group.parameters if name not in named]
            if missing:
                detail = f"the model has no parameter {missing[0]!r}; give the model that was inspected"
                raise ProblemError("invalid_request", detail, errors=[FieldError("/model", detail)])
            group_of |= {_memory(named[name]): index for name in group.parameters}
            groups.append({"params": [], "lr": base_lr * (group.scale or 1.0)})
        rest: dict[str, Any] = {"params": [], "lr": base_lr}  # Any: as above
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


def flattened(row: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:  # Any: whatever a row holds
    """The fields of a row with nested ones joined by an underscore, as the API filters by them."""
    for name in type(row).model_fields:
        value = getattr(row, name)
        if isinstance(value, BaseModel):
            yield from flattened(value, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}", value


def _memory(tensor: Any) -> int:  # Any: a torch.nn.Parameter
    """What makes two parameters one tensor: the memory, or the object where there is none."""
    return int(tensor.data_ptr()) or id(tensor)
