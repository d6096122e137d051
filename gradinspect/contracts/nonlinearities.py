"""Facts about activation functions: one record for each, read by specs, intake, engine, probes and rules.

To add an activation: a record here, and its slope φ′ in `engine/tracing/activations`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TorchLayer:
    """A class of `torch.nn` that applies the function.

    Attributes:
        name: of the class.
        formula: for its documentation.
        has_inplace: whether the constructor takes `inplace`.
        has_written_spec: whether `contracts/spec/layers/activation` defines its spec layer, because it has other
        arguments or restricts its input. Other spec layers are generated from this record.
    """

    name: str
    formula: str | None = None
    has_inplace: bool = False
    has_written_spec: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonlinearity:
    """One activation function φ. Flags describe φ with torch's default arguments.

    Attributes:
        name: in reports.
        operations: ATen names, without the underscore of the in-place form, of the operations that make up φ in order.
        layers: its classes in `torch.nn`.
        is_elementwise: whether φ acts on each element alone.
        has_inplace_operation: whether ATen has an in-place form.
        has_tensor_argument: whether the operation takes a second tensor: PReLU's slopes, RReLU's noise.
        autograd_node: name of its autograd node without `Backward0`, where it is not the operation in camel case.
        is_zero_at_zero: φ(0) = 0.
        is_hard_zero: φ(z) = 0 exactly on an interval, so that a unit can be dead.
        is_rectifier: φ′ is 0 for negative z and 1 for positive z.
        is_positively_homogeneous: φ(cz) = cφ(z) for c > 0, whatever φ's arguments are.
        largest_slope: max φ′ where φ saturates on both sides, else None.
        balanced_slope: √E[φ′(Z)²] for Z ~ N(0, 1) where larger weights can make up for it (He et al. 2015, eq. 14);
            closed form for ReLU (√½), by quadrature for the smooth ones. 1 elsewhere: odd functions such as tanh pass
            small values unchanged, and no weights make up for a sigmoid's 0.25.
        initialization: of the layer before φ. "he": gain 1 / balanced_slope; "tanh": Xavier with torch's gain of 5/3;
            "xavier": gain 1.
        is_in_presets: whether presets take its classes as `activation`.
    """

    name: str
    operations: tuple[str, ...]
    layers: tuple[TorchLayer, ...] = ()
    is_elementwise: bool = True
    has_inplace_operation: bool = False
    has_tensor_argument: bool = False
    autograd_node: str | None = None
    is_zero_at_zero: bool = False
    is_hard_zero: bool = False
    is_rectifier: bool = False
    is_positively_homogeneous: bool = False
    largest_slope: float | None = None
    balanced_slope: float = 1.0
    initialization: Literal["he", "tanh", "xavier"] = "xavier"
    is_in_presets: bool = False

    @property
    def node(self) -> str | None:
        """Autograd node of a function that is one operation."""
        if len(self.operations) != 1:
            return None
        camel = "".join(part.capitalize() for part in self.operations[0].split("_"))
        return f"{self.autograd_node or camel}Backward0"


NONLINEARITIES: tuple[Nonlinearity, ...] = (
    Nonlinearity(
        name="relu", operations=("relu",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("ReLU", "max(0, x)", has_inplace=True),),
        is_zero_at_zero=True, is_hard_zero=True, is_rectifier=True, is_positively_homogeneous=True,
        balanced_slope=0.7071, initialization="he",
    ),
    Nonlinearity(
        name="leaky_relu", operations=("leaky_relu",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("LeakyReLU", has_inplace=True, has_written_spec=True),),
        is_zero_at_zero=True, is_positively_homogeneous=True, balanced_slope=0.7071, initialization="he",
    ),
    Nonlinearity(
        name="elu", operations=("elu",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("ELU", has_inplace=True, has_written_spec=True), TorchLayer("SELU", has_inplace=True)),
        is_zero_at_zero=True, balanced_slope=0.817, initialization="he",
    ),
    Nonlinearity(
        name="celu", operations=("celu",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("CELU", has_inplace=True, has_written_spec=True),),
        is_zero_at_zero=True, balanced_slope=0.817, initialization="he",
    ),
    Nonlinearity(
        name="gelu", operations=("gelu",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("GELU", has_written_spec=True),),
        is_zero_at_zero=True, balanced_slope=0.675, initialization="he",
    ),
    Nonlinearity(
        name="silu", operations=("silu",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("SiLU", "x·sigmoid(x), also called swish", has_inplace=True),),
        is_zero_at_zero=True, balanced_slope=0.616, initialization="he",
    ),
    Nonlinearity(
        name="mish", operations=("mish",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("Mish", has_inplace=True),),
        is_zero_at_zero=True, balanced_slope=0.692, initialization="he",
    ),
    Nonlinearity(
        name="softplus", operations=("softplus",), is_in_presets=True,
        layers=(TorchLayer("Softplus", has_written_spec=True),),
        balanced_slope=0.542, initialization="he",
    ),
    Nonlinearity(
        name="tanh", operations=("tanh",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("Tanh"),),
        is_zero_at_zero=True, largest_slope=1.0, initialization="tanh",
    ),
    Nonlinearity(
        name="sigmoid", operations=("sigmoid",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("Sigmoid"),),
        largest_slope=0.25,
    ),
    Nonlinearity(
        name="hardswish", operations=("hardswish",), has_inplace_operation=True, is_in_presets=True,
        layers=(TorchLayer("Hardswish", has_inplace=True),),
        is_zero_at_zero=True, is_hard_zero=True, balanced_slope=0.599, initialization="he",
    ),
    Nonlinearity(
        name="hardtanh", operations=("hardtanh",), has_inplace_operation=True,
        layers=(
            TorchLayer("Hardtanh", has_inplace=True, has_written_spec=True),
            TorchLayer("ReLU6", "min(max(0, x), 6)", has_inplace=True),
        ),
        is_zero_at_zero=True, is_hard_zero=True, largest_slope=1.0, initialization="tanh",
    ),
    Nonlinearity(
        name="hardsigmoid", operations=("hardsigmoid",), has_inplace_operation=True,
        layers=(TorchLayer("Hardsigmoid", has_inplace=True),),
        is_hard_zero=True, largest_slope=1 / 6,
    ),
    Nonlinearity(
        name="threshold", operations=("threshold",), has_inplace_operation=True,
        layers=(TorchLayer("Threshold", has_inplace=True, has_written_spec=True),),
        is_zero_at_zero=True, is_hard_zero=True, is_rectifier=True, balanced_slope=0.7071, initialization="he",
    ),
    Nonlinearity(
        name="prelu", operations=("_prelu_kernel",), has_tensor_argument=True,
        layers=(TorchLayer("PReLU", has_written_spec=True),),
        is_zero_at_zero=True, balanced_slope=0.729, initialization="he",
    ),
    Nonlinearity(
        name="rrelu", operations=("rrelu_with_noise",), has_inplace_operation=True, has_tensor_argument=True,
        layers=(TorchLayer("RReLU", has_inplace=True, has_written_spec=True),),
        is_zero_at_zero=True, balanced_slope=0.727, initialization="he",
    ),
    Nonlinearity(
        name="log_sigmoid", operations=("log_sigmoid_forward",), autograd_node="LogSigmoid",
        layers=(TorchLayer("LogSigmoid"),),
        balanced_slope=0.542,
    ),
    Nonlinearity(
        name="softsign", operations=("abs", "add", "div"),
        layers=(TorchLayer("Softsign"),),
        is_zero_at_zero=True, largest_slope=1.0,
    ),
    Nonlinearity(
        name="tanhshrink", operations=("tanh", "sub"),
        layers=(TorchLayer("Tanhshrink", "x − tanh(x)"),),
        is_zero_at_zero=True,
    ),
    Nonlinearity(
        name="hardshrink", operations=("hardshrink",),
        layers=(TorchLayer("Hardshrink", has_written_spec=True),),
        is_zero_at_zero=True, is_hard_zero=True,
    ),
    Nonlinearity(
        name="softshrink", operations=("softshrink",),
        layers=(TorchLayer("Softshrink", has_written_spec=True),),
        is_zero_at_zero=True, is_hard_zero=True,
    ),
    Nonlinearity(
        name="softmax", operations=("_softmax",), is_elementwise=False,
        layers=(TorchLayer("Softmax", has_written_spec=True), TorchLayer("Softmax2d", has_written_spec=True)),
    ),
    Nonlinearity(
        name="log_softmax", operations=("_log_softmax",), is_elementwise=False,
        layers=(TorchLayer("LogSoftmax", has_written_spec=True),),
    ),
    Nonlinearity(
        name="softmin", operations=("neg", "_softmax"), is_elementwise=False,
        layers=(TorchLayer("Softmin", has_written_spec=True),),
    ),
    Nonlinearity(
        name="glu", operations=("glu",), is_elementwise=False,
        layers=(TorchLayer("GLU", has_written_spec=True),),
    ),
)  # fmt: skip

BY_NAME = {record.name: record for record in NONLINEARITIES}
BY_OPERATIONS = {record.operations: record for record in NONLINEARITIES}


def names_of(flag: Literal["is_zero_at_zero", "is_hard_zero", "is_rectifier"]) -> frozenset[str]:
    """Return the names of the functions for which a flag is set."""
    return frozenset(record.name for record in NONLINEARITIES if getattr(record, flag))


def balanced_slope(name: str | None) -> float:
    """Return √E[φ′(Z)²] that larger weights can make up for; 1 for no function and for unknown ones."""
    record = BY_NAME.get(name or "")
    return 1.0 if record is None else record.balanced_slope


def script_operators() -> frozenset[str]:
    """Return the ATen operators by which TorchScript calls these functions, in-place forms included.

    >>> sorted(name for name in script_operators() if "mish" in name)
    ['mish', 'mish_']
    """
    single = [record for record in NONLINEARITIES if len(record.operations) == 1]
    plain = {(name, record) for record in single for name in (record.name, record.operations[0])}
    return frozenset(name for name, _ in plain) | {f"{name}_" for name, record in plain if record.has_inplace_operation}
