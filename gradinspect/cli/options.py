"""The options that say what to inspect and how, shared by every command that inspects."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gradinspect.cli.failures import WRONG_CALL, Failure
from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.sections import DIAGNOSTICS
from gradinspect.contracts.spelling import did_you_mean

if TYPE_CHECKING:
    from gradinspect.cli.files import ModelFile
    from gradinspect.contracts.request.request import InspectionSettings

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
# Literal copies of the request's values: --help must not wait for pydantic. A test compares them with the contract.
LOSSES = ("cross_entropy", "mse", "l1", "huber", "bce_with_logits", "nll", "output_mean", "random_cotangent")
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32")


@dataclass(frozen=True)
class InspectionOptions:
    """The values of the options, as click parsed them."""

    server: str | None
    weights: str | None
    data: str | None
    inputs: str | None
    target: str | None
    input_shape: str | None
    input_dtype: str
    input_high: int | None
    samples: int | None
    loss: str
    optimizer: str | None
    diagnostics: str
    lr_scales: bool
    probe_steps: int | None
    trial: str
    precision: str | None
    mode: str | None
    seeds: int
    seed: int
    device: str
    policy: str
    label: tuple[str, ...]
    time_limit: float


def inspection_options(command: CommandT) -> CommandT:
    """Add the options to a command, which receives them as one `options` argument."""

    def collect(**arguments: Any) -> Any:  # Any: click parameters of any type; JSON documents below
        options = InspectionOptions(**{name: arguments.pop(name) for name in InspectionOptions.__dataclass_fields__})
        return command(options=options, **arguments)

    collect.__name__, collect.__doc__ = command.__name__, command.__doc__
    collect.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]  # set by click
    decorated: Any = collect
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]  # click's decorators return what they decorate


_OPTIONS = (
    click.option("--server", envvar="GRADINSPECT_SERVER", metavar="URL", show_envvar=True,
                 help="Inspect on this service instead of on this machine; MODEL may then be an mdl_… id."),
    click.option("--data", metavar="FILE", help="safetensors with the batch; without it, data is drawn from the seed."),
    click.option("--inputs", metavar="NAMES", help="Tensors of --data to call the model with, comma-separated."),
    click.option("--target", metavar="NAME", help="Tensor of --data to compare the output with."),
    click.option("--weights", metavar="FILE", help="safetensors with the state_dict of a spec."),
    click.option("--input-shape", metavar="SIZES", help="TorchScript without --data: its input without the batch axis, "
                 "16,256."),
    click.option("--input-dtype", type=click.Choice(DTYPES), default="float32", show_default=True,
                 help="dtype of that input."),
    click.option("--input-high", type=click.IntRange(1), metavar="N", help="Integer inputs are drawn below N."),
    click.option("--samples", type=click.IntRange(1), metavar="N", help="Batch size of drawn data.  [default: 128]"),
    click.option("--loss", type=click.Choice(LOSSES), default="cross_entropy", show_default=True, metavar="NAME",
                 help=f"One of {', '.join(LOSSES)}."),
    click.option("--optimizer", metavar="SPEC", help="What training will use: adam, or sgd,lr=0.1,momentum=0.9."),
    click.option("--diagnostics", metavar="NAMES", default="gradients,signals", show_default=True,
                 help=f"Comma-separated: {', '.join(DIAGNOSTICS)}; or all."),
    click.option("--lr-scales/--no-lr-scales", default=False, help="Suggest learning-rate scales, and test them."),
    click.option("--probe-steps", type=click.IntRange(10, 2000), metavar="N",
                 help="Steps of that test.  [default: 100]"),
    click.option("--trial", metavar="SPEC", default="auto", show_default=True,
                 help="Train the model on its batch to see whether it learns: auto, off, or steps=500,seconds=10."),
    click.option("--precision", metavar="SPEC", help="compute=float64, or intended=float16,loss_scale=65536."),
    click.option("--mode", type=click.Choice(["train", "eval"]),
                 help="How the model runs.  [default: train, or as a .pt2 file was exported]"),
    click.option("--seeds", type=click.IntRange(1, 32), default=1, show_default=True,
                 help="Initialisations or batches to average over."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
                 help="Seed of everything that is drawn at random."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
                 help="Where to compute."),
    click.option("--policy", metavar="FILE", default="default", show_default=True,
                 help="Judge by this policy: a JSON file; with --server also the name or id of a stored one."),
    click.option("--label", metavar="KEY=VALUE", multiple=True, help="With --server or --push: label the inspection."),
    click.option("--time-limit", type=click.FloatRange(1), default=300.0, show_default=True, metavar="SECONDS",
                 help="Measurements that do not fit are left out; with --server, how long to wait."),
)  # fmt: skip


def settings_of(options: InspectionOptions, data: dict[str, Any] | None) -> InspectionSettings:
    """Return the request's settings.

    Args:
        options: the values of the options.
        data: the document of the batch, when --data was given.

    Raises:
        Failure: an option has a wrong value; the message names the option.
    """
    from gradinspect.contracts.document import from_python
    from gradinspect.contracts.request.request import InspectionSettings

    try:
        return from_python(InspectionSettings, settings_document(options, data))
    except ProblemError as error:
        raise wrong_options(error.errors) from None


def wrong_options(errors: Sequence[FieldError]) -> Failure:
    """Return a failure that names the option behind each wrong field of a request."""
    details = []
    for error in errors:
        field, _, rest = error.pointer.removeprefix("/").partition("/")
        details.append(f"--{' '.join([field.replace('_', '-'), *rest.split('/')]).strip()}: {error.detail}")
    if len(details) == 1:
        return Failure(details[0], exit_code=WRONG_CALL)
    return Failure("options are wrong", details=tuple(details), exit_code=WRONG_CALL)


def settings_document(options: InspectionOptions, data: dict[str, Any] | None) -> dict[str, Any]:
    """Return the request's settings as JSON; arguments as in `settings_of`."""
    document: dict[str, Any] = {
        "loss": options.loss, "seeds": options.seeds, "seed": options.seed,
        "device": options.device, "diagnostics": _diagnostics(options.diagnostics),
    }  # fmt: skip
    if data is not None:
        document["data"] = data
    elif options.input_high is not None:
        shape = [options.samples or 128, *(_sizes(options.input_shape) if options.input_shape is not None else [])]
        dtype = options.input_dtype if options.input_dtype.startswith("int") else "int64"
        drawn = {"kind": "integers", "shape": shape, "dtype": dtype, "high": options.input_high}
        document["data"] = {"inputs": [drawn]}
    elif options.samples is not None:
        document["data"] = {"samples": options.samples}
    if options.mode is not None:
        document["mode"] = options.mode
    if options.optimizer is not None:
        document["optimizer"] = _shorthand(options.optimizer, "type")
    if options.precision is not None:
        document["precision"] = _shorthand(options.precision, "compute")
    if options.lr_scales:
        document["lr_scales"] = {} if options.probe_steps is None else {"probe_steps": options.probe_steps}
    if options.trial != "auto":
        is_word = "=" not in options.trial and not options.trial.lstrip().startswith("{")
        document["trial"] = options.trial if is_word else _shorthand(options.trial, "steps")
    return document


def check_options(model: ModelFile, options: InspectionOptions) -> None:
    """Refuse options that do not apply to this kind of model."""
    from gradinspect.contracts.sources import ExportedSource, SpecSource

    if isinstance(model.source, SpecSource):
        if options.input_shape is not None:
            raise click.UsageError("--input-shape is for TorchScript files; a spec declares its input itself")
        return
    if options.weights is not None:
        raise click.UsageError("--weights goes with a spec; a model file holds its own weights")
    if isinstance(model.source, ExportedSource):
        if options.input_shape is not None:
            raise click.UsageError("--input-shape is for TorchScript files; an exported program declares its inputs")
        return
    if options.data is None and options.input_shape is None:
        raise click.UsageError(
            f"{model.name} does not declare its input: give --data batch.safetensors, or --input-shape SIZES "
            "without the batch axis"
        )


def declared_input(options: InspectionOptions) -> dict[str, Any] | None:
    """Return the input that the options declare for a TorchScript file."""
    if options.input_shape is None:
        return None
    return {"shape": _sizes(options.input_shape), "dtype": options.input_dtype}


def labels_of(texts: Sequence[str]) -> dict[str, str]:
    """Parse the KEY=VALUE pairs of --label."""
    pairs = [text.partition("=") for text in texts]
    wrong = next((key for key, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not KEY=VALUE", param_hint="--label")
    return {key: value for key, _, value in pairs}


def input_names(options: InspectionOptions) -> tuple[str, ...]:
    """Return the tensor names of --inputs."""
    return tuple(_names(options.inputs)) if options.inputs is not None else ()


def _diagnostics(text: str) -> list[str]:
    if text == "all":
        return list(DIAGNOSTICS)
    names = _names(text)
    for name in names:
        if name not in DIAGNOSTICS:
            known = did_you_mean(name, DIAGNOSTICS) or f"; there are {', '.join(DIAGNOSTICS)}, and all"
            raise click.BadParameter(f"there is no diagnostic {name!r}{known}", param_hint="--diagnostics")
    return names


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(size) for size in _names(text)]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a list of sizes such as 16,256", param_hint="--input-shape"
        ) from None
    if min(sizes, default=1) < 1:
        raise click.BadParameter(f"{text!r} has a size under 1", param_hint="--input-shape")
    return sizes


def _shorthand(text: str, first: str) -> dict[str, Any]:
    """Parse `sgd,lr=0.1` into {"type": "sgd", "lr": 0.1}; return a JSON object as it is."""
    if text.lstrip().startswith("{"):
        try:
            document: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise Failure(f"{text!r} is not JSON: {error.msg}", exit_code=WRONG_CALL) from None
        return document
    pairs = [part.partition("=") for part in _names(text)]
    return {(key if equals else first): (_value(value) if equals else key) for key, equals, value in pairs}


def _value(text: str) -> Any:
    """Parse a JSON value; anything else is text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
