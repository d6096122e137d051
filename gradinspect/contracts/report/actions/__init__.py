"""The actions of a prescription: one document each, with its checked arguments, its sentence and its source code.

Everything here is text made from validated arguments: no torch is imported and nothing is executed.
"""

from __future__ import annotations

from gradinspect.contracts.report.actions.action import Action
from gradinspect.contracts.report.actions.data import StandardiseInputs, StandardiseTargets
from gradinspect.contracts.report.actions.functions import RemoveOutputFunction, ReplaceFunction
from gradinspect.contracts.report.actions.modules import (
    AddNormalization,
    AddSkipConnections,
    RemoveOutputActivation,
    ReplaceActivation,
    ScaleResidual,
    Unfreeze,
)
from gradinspect.contracts.report.actions.training import ClipGradients, ScaleLearningRates, SetOptimizer
from gradinspect.contracts.report.actions.weights import (
    Initialize,
    OrthogonalRecurrence,
    RedrawWeights,
    ReviveUnits,
    ScaleWeights,
    SetForgetBias,
)

__all__ = ["ACTIONS", "Action"]

ACTIONS: dict[str, type[Action]] = {
    action.name: action
    for action in (
        SetOptimizer,
        ScaleLearningRates,
        ClipGradients,
        Initialize,
        ScaleWeights,
        RedrawWeights,
        ReviveUnits,
        OrthogonalRecurrence,
        SetForgetBias,
        Unfreeze,
        ReplaceActivation,
        ReplaceFunction,
        StandardiseInputs,
        StandardiseTargets,
        RemoveOutputActivation,
        RemoveOutputFunction,
        ScaleResidual,
        AddNormalization,
        AddSkipConnections,
    )
}
