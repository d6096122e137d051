"""The known traps: which of them an operation is in, from its name, its arguments and what went into it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradinspect.contracts.nonlinearities import NONLINEARITIES
from gradinspect.contracts.report.operations import OperationInput, Trap
from gradinspect.engine.locate.records import Record

SOFTMAXES = frozenset({"_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax"})
NORMALISATIONS = frozenset(
    {"native_layer_norm", "native_group_norm", "native_batch_norm", "cudnn_batch_norm", "_batch_norm_with_update",
     "_native_batch_norm_legit", "_fused_rms_norm"}
)  # fmt: skip
ATTENTION = frozenset(
    {"_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
     "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
     "_scaled_dot_product_attention_math"}
)  # fmt: skip
_ROOTS = frozenset(
    {"sqrt", "rsqrt", "linalg_vector_norm", "norm", "_cdist_forward", "cdist", "_euclidean_dist", "std", "std_mean",
     "dist", "pairwise_distance"}
)  # fmt: skip
_LOGARITHMS = frozenset({"log", "log2", "log10", "log1p", "xlogy", "logit", "special_entr"})
_ARCS = frozenset({"acos", "asin", "atanh", "acosh", "erfinv"})
_DIVISIONS = frozenset({"div", "true_divide", "reciprocal", "remainder", "fmod", "rsqrt"})
_STEPS = frozenset(
    {"round", "floor", "ceil", "trunc", "sign", "sgn", "heaviside", "floor_divide", "frac_", "bernoulli", "fix",
     "fake_quantize_per_tensor_affine_cachemask"}
)  # fmt: skip
_WRITES = frozenset({"index_put", "_index_put_impl", "masked_fill", "fill", "zero", "copy", "index_fill",
     "masked_scatter", "scatter", "index_copy", "slice_scatter", "select_scatter"})  # fmt: skip
_PRODUCTS = frozenset({"mul", "mm", "addmm", "bmm", "baddbmm", "convolution", "_convolution", "mkldnn_convolution",
     "cudnn_convolution", "addmv", "mv", "dot", "addcmul", "addcdiv", "div", "prod", "cumprod"})  # fmt: skip
_MEANS = frozenset({"mean", "nll_loss_forward", "nll_loss2d_forward", "mse_loss", "smooth_l1_loss", "huber_loss",
     "binary_cross_entropy_with_logits", "binary_cross_entropy", "var", "std", "var_mean", "std_mean"})  # fmt: skip
_ADDS = frozenset({"addmm", "add", "sub", "convolution", "baddbmm", "native_layer_norm", "native_batch_norm"})
OVER_AN_AXIS = SOFTMAXES | NORMALISATIONS
_SMOOTH_SATURATING = frozenset(
    record.operations[0] for record in NONLINEARITIES if record.largest_slope is not None
) | {"erf", "sigmoid", "tanh"}  # fmt: skip
_FLAT = frozenset(
    record.operations[0] for record in NONLINEARITIES if record.is_hard_zero
) | {"clamp", "clamp_min", "clamp_max", "hardtanh", "hardsigmoid", "hardswish", "relu", "relu6", "threshold", "minimum",
     "maximum", "max", "min", "hardshrink", "softshrink"}  # fmt: skip
_SMALL_FLOATS = frozenset({"float16", "bfloat16"})
# A gradient this close to the smallest normal number loses all its digits in the next product.
_UNDERFLOW_MARGIN = 2.0**20
_EXACT = 1e-6  # chosen: acos within a few float32 steps of 1


def forward_trap(record: Record, *, makes_nan: bool) -> Trap:
    """Name the trap of an operation that made non-finite values of finite ones."""
    name, inputs = record.name, record.inputs
    first = inputs[0] if inputs else None
    if name in _LOGARITHMS and first is not None:
        at = -1.0 if name == "log1p" else 0.0
        return "outside_domain" if makes_nan and (first.smallest or 0.0) < at else "log_of_zero"
    if name in _ROOTS | _ARCS or (name == "pow" and makes_nan and _is_below_zero(first)):
        if name == "rsqrt" and not makes_nan:
            return "division_by_zero"
        if name in ("std", "std_mean") and makes_nan:
            return "norm_of_one"
        return "outside_domain" if makes_nan else "edge_of_domain"
    if name in SOFTMAXES or name in ATTENTION:
        return "masked_softmax"
    if name == "_ctc_loss":
        return "impossible_alignment"
    if name in _MEANS and makes_nan:
        return "norm_of_one" if name in ("var", "var_mean") else "empty_mean"
    if name in _DIVISIONS or (name == "pow" and _is_negative(_exponent(record))):
        divisor = inputs[-1] if inputs else None
        if divisor is not None and _holds_zero(divisor):
            return "division_by_zero"
        if not makes_nan and len(inputs) < 2 and any(value == 0 for value in record.arguments if _is_number(value)):
            return "division_by_zero"
        if any(value == 0 for value in record.arguments if _is_number(value)):
            return "division_by_zero"
    if name in NORMALISATIONS and record.axis_size == 1:
        return "norm_of_one"
    if first is not None and any(each.dtype in _SMALL_FLOATS for each in inputs):
        return "half_overflow"
    if record.output_dtype in (torch.float16, torch.bfloat16):
        return "half_overflow"
    return "overflow"


def backward_trap(record: Record, *, is_untaken: bool, broke_forward: bool) -> Trap:
    """Name the trap of an operation that made a non-finite gradient of a finite one."""
    name = record.name
    first = record.inputs[0] if record.inputs else None
    if name == "_ctc_loss":
        return "impossible_alignment"
    if broke_forward or (is_untaken and name in _LOGARITHMS | _DIVISIONS):
        return "where_branch"
    if name in SOFTMAXES or name in ATTENTION:
        return "masked_softmax"
    if name in _ROOTS or (name == "pow" and 0 < (_exponent(record) or 0.0) < 1):
        return "root_at_zero"
    if name in _ARCS:
        return "edge_of_domain"
    if name in _LOGARITHMS:
        return "log_of_zero"
    if name in _DIVISIONS or (name == "pow" and (_exponent(record) or 0.0) < 0):
        return "division_by_zero"
    if any(each.dtype in _SMALL_FLOATS for each in record.inputs):
        return "half_overflow"
    if first is not None and name in NORMALISATIONS and record.axis_size == 1:
        return "norm_of_one"
    return "overflow"


def zero_trap(record: Record, *, entered: float, edge: int, is_parameter: bool = False) -> Trap:
    """Name the trap of an operation that made an exactly zero gradient of one that was not zero.

    Args:
        record: the operation.
        entered: largest |gradient| with respect to its output.
        edge: index of the input whose gradient is zero.
        is_parameter: that input is a parameter itself.
    """
    name, inputs = record.name, record.inputs
    if name in SOFTMAXES and record.axis_size == 1:
        return "softmax_of_one"
    if name in NORMALISATIONS and record.axis_size == 1:
        return "norm_of_one"
    if name in _STEPS:
        return "no_slope"
    if name in _WRITES:
        return "overwritten"
    if name == "where":
        return "overwritten"
    smallest = _tiny(record) * _UNDERFLOW_MARGIN
    if entered < smallest or (name in ("mul", "div") and entered * _largest_factor(record, edge) < _tiny(record)):
        return "underflow"
    if is_parameter and name in _ADDS and _is_shift(record, edge):
        return "equal_shift"
    others = [each for position, each in enumerate(inputs) if position != edge or len(inputs) == 1]
    if name in _PRODUCTS and any(_is_all_zero(each) for each in (others or inputs)):
        return "zero_factor"
    if name in ("mul", "div") and any(isinstance(value, int | float) and value == 0 for value in record.arguments):
        return "zero_factor"
    if name in _FLAT:
        return "flat_region"
    if name in ("std", "std_mean") or (name in _ROOTS and inputs and _holds_zero(inputs[0])):
        return "root_at_zero"
    if name in ("linalg_vector_norm", "_cdist_forward", "abs", "pow") and inputs and _holds_zero(inputs[0]):
        return "root_at_zero" if name != "abs" else "no_slope"
    if name == "_cdist_forward":
        return "root_at_zero"
    if name in _SMOOTH_SATURATING or name in SOFTMAXES:
        return "saturated"
    if name in _MEANS:
        return "empty_mean"
    return "unknown"


def _is_shift(record: Record, edge: int) -> bool:
    """Check that an input is the bias of its operation: the first of addmm, the last of the others."""
    return edge == (0 if record.name in ("addmm", "baddbmm") else 2) or record.name in ("add", "sub")


def _largest_factor(record: Record, edge: int) -> float:
    """Return the largest |factor| that a product multiplies the gradient towards one input with; 1 for a zero one."""
    inputs = [each for position, each in enumerate(record.inputs) if position != edge]
    sizes = [abs(value) for each in inputs for value in (each.smallest, each.largest) if value is not None]
    scalars = [abs(float(value)) for value in record.arguments if _is_number(value)]
    largest = max([*sizes, *scalars], default=1.0)
    factor = 1 / largest if record.name == "div" and largest else largest
    return factor or 1.0


def _exponent(record: Record) -> float | None:
    return next((float(value) for value in record.arguments if _is_number(value)), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_negative(value: float | None) -> bool:
    return value is not None and value < 0


def _is_below_zero(each: OperationInput | None) -> bool:
    return each is not None and each.smallest is not None and each.smallest < 0


def _holds_zero(each: OperationInput) -> bool:
    return each.zero_fraction is not None and each.zero_fraction > 0


def _is_all_zero(each: OperationInput) -> bool:
    return each.zero_fraction == 1.0


def _tiny(record: Record) -> float:
    dtypes: Sequence[str] = [each.dtype for each in record.inputs] or ["float32"]
    sizes = [torch.finfo(getattr(torch, dtype)).tiny for dtype in dtypes if "float" in dtype]
    return max(sizes, default=torch.finfo(torch.float32).tiny)
