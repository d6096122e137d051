"""What the candidates are chosen by: the measurements and findings, the batch, and the model's own tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from gradinspect.contracts.nonlinearities import BY_NAME
from gradinspect.contracts.report.actions.weights import Scheme
from gradinspect.contracts.report.report import Finding, Measurements
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.probes.prescription.observed import Observed, observe
from gradinspect.probes.prescription.patient import Patient

MOST_NAMES = 512  # of weights that are drawn by name


@dataclass(frozen=True, eq=False)
class Facts:
    """The facts about one model, read once.

    Attributes:
        model: a copy, for reading only.
        findings: of the rules, without the trial's.
        observed: of an eager model's forward pass.
    """

    patient: Patient
    measured: Measurements
    findings: Sequence[Finding]
    model: nn.Module
    observed: Observed = field(default_factory=Observed)

    @classmethod
    def of(cls, patient: Patient, measured: Measurements, findings: Sequence[Finding]) -> Facts:
        """Read the facts. Cost: a copy of the model and one forward pass."""
        model = patient.fresh(patient.seed)
        observed = Observed() if patient.is_scripted else observe(model, patient.task)
        return cls(patient, measured, findings, model, observed)

    @cached_property
    def layers(self) -> list[LayerMeasurement]:
        """Layer calls, nearest the input first."""
        return sorted(self.measured.layers, key=lambda row: row.depth)

    @cached_property
    def by_name(self) -> dict[str, ParameterMeasurement]:
        """Rows of the parameters."""
        return {row.name: row for row in self.measured.parameters}

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The parameters of the copy."""
        return dict(self.model.named_parameters())

    @cached_property
    def hidden(self) -> str | None:
        """The activation that most hidden layers have; None without one."""
        functions = [row.nonlinearity for row in self.layers if row.nonlinearity in BY_NAME]
        if self.observed.output is not None and functions and functions[-1] == self.observed.output:
            functions = functions[:-1]
        counted = Counter(name for name in functions if name is not None and BY_NAME[name].is_elementwise)
        return counted.most_common(1)[0][0] if counted else None

    @property
    def scheme(self) -> Scheme:
        """The initialisation that fits the hidden activation."""
        record = BY_NAME.get(self.hidden or "")
        return record.initialization if record is not None else "xavier"

    @cached_property
    def matrices(self) -> tuple[str, ...]:
        """Weights of linear and convolutional layer calls, by name, nearest the input first."""
        kinds = ("linear", "conv", "addmm", "mm", "matmul")
        rows = [row for row in self.layers if any(kind in row.kind.lower() for kind in kinds)]
        names = [name for row in rows for name in row.parameters if len(self._shape(name)) >= 2]
        return tuple(dict.fromkeys(names))

    @cached_property
    def biases(self) -> tuple[str, ...]:
        """Biases of the same calls."""
        owners = {name.rpartition(".")[0] for name in self.matrices}
        return tuple(
            name
            for name, row in self.by_name.items()
            if len(row.shape) == 1 and name.rpartition(".")[0] in owners and name.rpartition(".")[2] == "bias"
        )

    def of_rule(self, *rules: str) -> Finding | None:
        """Return the first finding of any of these rules."""
        return next((finding for finding in self.findings if finding.rule in rules), None)

    def has_modules(self, *kinds: type[nn.Module]) -> bool:
        """Check for modules of a kind; scripted ones by the name of their class."""
        names = {kind.__name__ for kind in kinds}
        return any(
            isinstance(module, kinds) or getattr(module, "original_name", "") in names
            for module in self.model.modules()
        )

    def _shape(self, name: str) -> tuple[int, ...]:
        row = self.by_name.get(name)
        return tuple(row.shape) if row is not None else ()
