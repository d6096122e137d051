"""Models that a function of the caller's builds: `gradinspect inspect package.module:build_model`.

The function is imported and called in this process, with the caller's rights, as `python -c` would. It returns an
nn.Module or a spec, or a tuple of a model, its inputs and, if any, the targets.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradinspect.cli.failures import WRONG_CALL, Failure
from gradinspect.cli.files import read_data, read_policy
from gradinspect.cli.options import InspectionOptions, declared_input, input_names, settings_document, settings_of
from gradinspect.cli.progress import Progress
from gradinspect.contracts.document import from_python
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from gradinspect.contracts.spec.tensors import SampleInput
from gradinspect.contracts.spelling import did_you_mean

if TYPE_CHECKING:
    from gradinspect.engine.network.batch import Batch
    from gradinspect.report.shown import Report

_FACTORY = re.compile(r"(?P<module>[A-Za-z_][\w.]*|[^:]+\.py):(?P<function>[A-Za-z_][\w.]*)")
_RETURNS = "it has to return an nn.Module or a spec (dict), or a tuple (model, inputs) or (model, inputs, targets)"
# Libraries of named models, which are no modules of the caller's.
_LIBRARIES = frozenset({"timm", "torchvision", "transformers"})


def is_factory(text: str) -> bool:
    """Check whether an argument names a function: package.module:function, or file.py:function."""
    match = _FACTORY.fullmatch(text)
    return match is not None and match["module"] not in _LIBRARIES and not Path(text).exists()


def inspect_factory(text: str, options: InspectionOptions, policy: Policy | None, progress: Progress) -> Report:
    """Call the function and inspect what it returns.

    Raises:
        Failure: it cannot be imported, raises, or returns something else.
        InspectionError, ProblemError: as `gradinspect.inspect`.
    """
    function = _imported(text)
    from gradinspect.inspection.local import inspect

    try:
        built = function()
    except Exception as error:
        raise Failure(f"{text} raised {type(error).__name__}: {error}", exit_code=WRONG_CALL) from error
    model, inputs, targets = _parts(text, built)
    if policy is None:
        policy = DEFAULT_POLICY if options.policy == DEFAULT_POLICY.name else read_policy(options.policy)
    asked = settings_document(options, None)
    data = asked.pop("data", None)
    batch = _batch(model, options, data) if inputs is None else None
    if batch is not None:
        inputs = list(batch.inputs)
    if targets is None and batch is not None and not batch.synthetic:
        targets = batch.target_for(None)
    return inspect(model, inputs, targets, policy=policy, time_limit=options.time_limit, progress=progress, **asked)


def _imported(text: str) -> Any:  # Any: whatever the caller's module holds under that name
    match = _FACTORY.fullmatch(text)
    assert match is not None
    module_name, path = match["module"], match["function"]
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        module = _from_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = f"run it where `python -c 'import {module_name}'` works" if not module_name.endswith(".py") else ""
        raise Failure(f"{text}: {error}", hint=hint, exit_code=WRONG_CALL) from None
    except Exception as error:
        raise Failure(
            f"importing {module_name} raised {type(error).__name__}: {error}", exit_code=WRONG_CALL
        ) from error
    found: Any = module
    for name in path.split("."):
        names = sorted(vars(found)) if hasattr(found, "__dict__") else []
        if not hasattr(found, name):
            known = did_you_mean(name, names)
            raise Failure(f"{module_name} has no function {path!r}{known}", exit_code=WRONG_CALL)
        found = getattr(found, name)
    return found if callable(found) and not _is_model(found) else lambda: found


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ModuleNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _is_model(value: object) -> bool:
    from torch import nn

    return isinstance(value, nn.Module)


def _parts(text: str, built: Any) -> tuple[Any, Any, Any]:
    """Split what the function returned into model, inputs and targets."""
    parts = tuple(built) if isinstance(built, tuple) else (built,)
    model = parts[0] if parts else None
    if not (_is_model(model) or isinstance(model, dict)) or len(parts) > 3:
        kind = type(model).__name__ if len(parts) == 1 else f"a tuple of {len(parts)}"
        raise Failure(f"{text} returned {kind}; {_RETURNS}", exit_code=WRONG_CALL)
    return (*parts, None, None)[0], (*parts, None, None)[1], (*parts, None, None)[2]


def _batch(model: Any, options: InspectionOptions, data: dict[str, Any] | None) -> Batch | None:
    """Read or draw the batch that the options describe; None for a spec, which declares its input."""
    if isinstance(model, dict) and options.data is None:
        return None
    from gradinspect.engine.network.batch import make_batch
    from gradinspect.engine.network.load import load_tensors

    tensors = None
    document = settings_document(options, None) | ({"data": data} if data is not None else {})
    if options.data is not None:
        file = read_data(options.data, input_names(options), options.target)
        tensors = load_tensors(file.content)
        document = {"data": {"artifact": file.digest, "inputs": list(file.inputs), "target": file.target}}
    declared = declared_input(options)
    if tensors is None and declared is None and data is None:
        raise Failure(
            "the function returns a model alone: return (model, inputs), or give --data batch.safetensors, or "
            "--input-shape SIZES without the batch axis",
            exit_code=WRONG_CALL,
        )
    settings = settings_of(options, document.get("data"))
    import torch

    parameter = next(iter(model.parameters()), None) if not isinstance(model, dict) else None
    return make_batch(
        settings.data, tensors, sample_input=from_python(SampleInput, declared) if declared is not None else None,
        vocabulary=None, loss=settings.loss, dtype=None,
        device=parameter.device if parameter is not None else torch.device("cpu"), seed=settings.seed,
    )  # fmt: skip
