"""The options that say what to inspect and how, for every command that inspects."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gradinspect.cli.failures import WRONG_CALL, Failure
from gradinspect.contracts.problems import FieldError, ProblemError

if TYPE_CHECKING:
    from gradinspect.contracts.request.request import InspectionSettings

Command = TypeVar("Command", bound=Callable[..., Any])
# Written out, and not read off the request's contract: help is to be there before contracts are built.
LOSSES = ("cross_entropy", "mse", "l1", "huber", "bce_with_logits", "nll", "output_mean", "random_cotangent")
DIAGNOSTICS = ("gradients", "signals", "noise", "curvature", "jacobian", "training_trace")
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32")


@dataclass(frozen=True)
class Asked:
    """What the options say, as they came."""

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
    precision: str | None
    mode: str
    seeds: int
    seed: int
    device: str
    policy: str
    label: tuple[str, ...]
    time_limit: float


def inspection_options(command: Command) -> Command:
    """Add the options to a command; it gets them as one `asked`."""

    def collect(**arguments: Any) -> Any:  # Any: click's parameters, of their own types
        asked = Asked(**{name: arguments.pop(name) for name in Asked.__dataclass_fields__})
        return command(asked=asked, **arguments)

    collect.__name__, collect.__doc__ = command.__name__, command.__doc__
    collect.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]  # click's own mark
    decorated: Any = collect  # Any: click's decorators are typed for the function they get
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]  # a command of the same kind


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
    click.option("--precision", metavar="SPEC", help="compute=float64, or intended=float16,loss_scale=65536."),
    click.option("--mode", type=click.Choice(["train", "eval"]), default="train", show_default=True,
                 help="How the model runs."),
    click.option("--seeds", type=click.IntRange(1, 32), default=1, show_default=True,
                 help="Initialisations or batches to average over."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Everything random comes of it."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
                 help="Where to compute."),
    click.option("--policy", metavar="FILE", default="default", show_default=True,
                 help="Judge by this policy: a JSON file; with --server also the name or id of one that is stored."),
    click.option("--label", metavar="KEY=VALUE", multiple=True, help="With --server: label the inspection."),
    click.option("--time-limit", type=click.FloatRange(1), default=300.0, show_default=True, metavar="SECONDS",
                 help="What does not fit into it is left undetermined; with --server, how long to wait."),
)  # fmt: skip


def settings_of(asked: Asked, data: dict[str, Any] | None) -> InspectionSettings:
    """The settings that the options say.

    Args:
        asked: the options.
        data: the document of the batch, where there is a file.

    Raises:
        Failure: an option's value is wrong; it is named.
    """
    from gradinspect.contracts.document import from_python
    from gradinspect.contracts.request.request import InspectionSettings

    try:
        return from_python(InspectionSettings, settings_document(asked, data))
    except ProblemError as error:
        raise wrong_options(error.errors) from None


def wrong_options(errors: Sequence[FieldError]) -> Failure:
    """Wrong fields of a request, by the options that they come from."""
    details = []
    for error in errors:
        field, _, rest = error.pointer.removeprefix("/").partition("/")
        details.append(f"--{' '.join([field.replace('_', '-'), *rest.split('/')]).strip()}: {error.detail}")
    return Failure("an option is wrong" if len(details) == 1 else "options are wrong", details=tuple(details),
                   exit_code=WRONG_CALL)  # fmt: skip


def settings_document(asked: Asked, data: dict[str, Any] | None) -> dict[str, Any]:
    """The same, as JSON."""
    document: dict[str, Any] = {
        "loss": asked.loss, "mode": asked.mode, "seeds": asked.seeds, "seed": asked.seed, "device": asked.device,
        "diagnostics": list(DIAGNOSTICS) if asked.diagnostics == "all" else _names(asked.diagnostics),
    }  # fmt: skip
    if data is not None:
        document["data"] = data
    elif asked.input_high is not None:
        shape = [asked.samples or 128, *(_sizes(asked.input_shape) if asked.input_shape is not None else [])]
        dtype = asked.input_dtype if asked.input_dtype.startswith("int") else "int64"
        drawn = {"kind": "integers", "shape": shape, "dtype": dtype, "high": asked.input_high}
        document["data"] = {"inputs": [drawn]}
    elif asked.samples is not None:
        document["data"] = {"samples": asked.samples}
    if asked.optimizer is not None:
        document["optimizer"] = _shorthand(asked.optimizer, "type")
    if asked.precision is not None:
        document["precision"] = _shorthand(asked.precision, "compute")
    if asked.lr_scales:
        document["lr_scales"] = {} if asked.probe_steps is None else {"probe_steps": asked.probe_steps}
    return document


def declared_input(asked: Asked) -> dict[str, Any] | None:
    """The input that the options declare for a TorchScript file."""
    if asked.input_shape is None:
        return None
    return {"shape": _sizes(asked.input_shape), "dtype": asked.input_dtype}


def labels_of(asked: Asked) -> dict[str, str]:
    """KEY=VALUE pairs."""
    pairs = [label.partition("=") for label in asked.label]
    wrong = next((key for key, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not KEY=VALUE", param_hint="--label")
    return {key: value for key, _, value in pairs}


def input_names(asked: Asked) -> tuple[str, ...]:
    """The names of --inputs."""
    return tuple(_names(asked.inputs)) if asked.inputs is not None else ()


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(size) for size in _names(text)]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not sizes such as 16,256", param_hint="--input-shape") from None
    if min(sizes, default=1) < 1:
        raise click.BadParameter(f"{text!r} holds a size under 1", param_hint="--input-shape")
    return sizes


def _shorthand(text: str, first: str) -> dict[str, Any]:
    """`sgd,lr=0.1` → {"type": "sgd", "lr": 0.1}; a JSON object is taken as it is."""
    if text.lstrip().startswith("{"):
        try:
            document: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise Failure(f"{text!r} is not JSON: {error.msg}", exit_code=WRONG_CALL) from None
        return document
    pairs = [part.partition("=") for part in _names(text)]
    return {(key if equals else first): (_value(value) if equals else key) for key, equals, value in pairs}


def _value(text: str) -> Any:  # Any: JSON, or the text itself
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
