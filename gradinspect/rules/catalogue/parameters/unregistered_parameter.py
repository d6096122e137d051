"""Tensors that the model trains with and does not register as parameters."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import NotJudged, Rule, Thresholds
from gradinspect.wording import counted, listed


def check(evidence: Evidence, _thresholds: Thresholds) -> Finding | NotJudged | None:
    """List the leaves of the model's graph that are none of its parameters or inputs."""
    tensors = evidence.setup.unregistered
    if not tensors:
        return None
    names = [tensor.name for tensor in tensors]
    known = [name for name in names if not name.startswith("(")]
    which = f": {listed(known)}" if known else ""
    in_list = any("[" in name for name in known)
    register = "nn.ModuleList, nn.ParameterList or nn.Parameter" if in_list else "nn.Parameter, or a submodule"
    count = counted(len(tensors), "tensor")
    verb = "require a gradient and are" if len(tensors) > 1 else "requires a gradient and is"
    return RULE.finding(
        severity="warn",
        parameters=known,
        value=float(len(tensors)),
        message=(
            f"{count} that the model computes with {verb} not among its parameters{which}. An optimizer made from "
            "model.parameters() never moves them, and state_dict() does not save them."
        ),
        remedy=Remedy(action="register_parameter", arguments={"names": known, "with": register}),
    )


RULE = Rule(
    id="unregistered_parameter",
    title="Parameters that are not registered",
    what="Tensors that require a gradient, that the model's output depends on, and that are neither parameters nor "
    "inputs.",
    why=(
        "torch finds the parameters of attributes that are modules or nn.Parameter. Layers in a Python list or dict, "
        "and plain tensors, are used in forward() and never trained, saved or moved to a device."
    ),
    unit="tensors",
    compares="present",
    reference="torch.nn.ModuleList: modules in it are properly registered; pytorch issue 1053",
    check=check,
    if_it_learns="kept",
    always="warn",
)
