"""From an observed training step to measurements: the rows of an inspection, without the sections that cost passes."""

from __future__ import annotations

import torch
from torch.optim.optimizer import Optimizer as TorchOptimizer

from gradinspect.contracts.document import from_python
from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.problems import InspectionError, ProblemError
from gradinspect.contracts.report.report import Environment, Measurements
from gradinspect.contracts.report.sections import MAX_LAYERS
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.checks.self_checks import balance_identity
from gradinspect.engine.first_order.observed_pass import ObservedPass
from gradinspect.engine.tracing.naming import name_calls
from gradinspect.inspection.measure import device_name
from gradinspect.inspection.optimizer_object import declared_settings
from gradinspect.inspection.results import FirstPass, Results, outputs_of, parameter_dtype, precision_of
from gradinspect.version import __version__


def observed_measurements(observed: ObservedPass, settings: InspectionSettings) -> Measurements:
    """Assemble what an observed step says.

    Args:
        observed: after its backward pass.
        settings: what an inspection of the step would have been asked for.

    Raises:
        InspectionError: `invalid_model`, more layer calls than a report holds.
    """
    reading, parameters = observed.reading, observed.parameters
    assert reading is not None
    if len(reading.calls) > MAX_LAYERS:
        detail = f"the model makes {len(reading.calls):,} layer calls; a report holds at most {MAX_LAYERS:,}"
        raise InspectionError("invalid_model", detail)
    names = name_calls(reading.calls, parameters)
    dtype = parameter_dtype(reading, parameters)
    results = Results(settings)
    results.first = FirstPass(
        dtype=str(dtype).removeprefix("torch."),
        digest=observed.digest or "",
        is_synthetic=False,
        sampled_layers=sum(call.sampled for call in reading.calls),
        expected_loss=None,
        checks=(balance_identity(reading, dtype),),
        precision=precision_of(reading, settings, dtype),
        outputs=outputs_of(reading.outputs),
        losses=(),
        setup=None,
    )
    results.add_pass(reading, names, parameters)
    where = next((entry.tensor.device for entry in parameters), torch.device("cpu"))
    return results.measurements(
        Environment(
            gradinspect_version=__version__,
            torch_version=torch.__version__,
            device=device_name(where),
            dtype=results.first.dtype,
            threads=torch.get_num_threads(),
            seed=settings.seed,
            data_digest=observed.digest,
            sampled_layers=results.first.sampled_layers,
        )
    )


def declared_optimizer(optimizer: TorchOptimizer) -> Optimizer | None:
    """Describe an optimizer of torch as a request declares it, by its first parameter group; None for others."""
    try:
        return from_python(InspectionSettings, {"optimizer": declared_settings(optimizer)}).optimizer
    except ProblemError:  # a setting that torch takes and a request does not, such as a tensor
        return None
