"""Names of ATen operations (`ATEN_…`) and of autograd nodes (`NODE_…`), in the sets that the engine asks for.

ATen names carry no overload; in-place forms end in an underscore and are listed where callers do not strip it.
"""

from __future__ import annotations

from gradinspect.contracts.nonlinearities import NONLINEARITIES

# Layer calls

ATEN_AFFINE = frozenset(
    {"addmm", "mm", "bmm", "convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution"}
)  # fmt: skip
ATEN_MATRIX_PRODUCTS = frozenset({"addmm", "mm", "bmm", "addmv", "mv", "baddbmm"})
ATEN_LOOKUPS = frozenset({"embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"})
ATEN_BATCH_NORMALIZATIONS = frozenset(
    {"native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update"}
)  # fmt: skip
ATEN_NORMALIZATIONS = ATEN_BATCH_NORMALIZATIONS | {"native_layer_norm", "native_group_norm", "_fused_rms_norm"}
# A bias or a gain that is applied by a separate operation belongs to the layer call before it.
ATEN_BIAS_OR_GAIN = frozenset(
    {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "addcmul", "addcmul_"}
)  # fmt: skip
# One kernel and one autograd node for all time steps of a recurrent layer.
ATEN_FUSED_RECURRENT = frozenset({"mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn"})
# What applies parameters to constants as a layer, and does not only compute a weight from them.
ATEN_LAYERS = ATEN_AFFINE | ATEN_MATRIX_PRODUCTS | ATEN_NORMALIZATIONS | ATEN_FUSED_RECURRENT
ATEN_WITH_WEIGHT_OPERAND = ATEN_AFFINE - {"bmm"}
# Units are on axis 1 of the output; elsewhere they are on the last axis.
ATEN_CHANNELS_FIRST = frozenset(
    {"convolution", "_convolution", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
     "_batch_norm_with_update", "native_group_norm", "mkldnn_convolution", "cudnn_convolution"}
)  # fmt: skip

# Draw random numbers, by the name without the underscore of the in-place form
ATEN_RANDOM = frozenset(
    {"rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "normal", "uniform", "random",
     "exponential", "bernoulli", "log_normal", "cauchy", "poisson", "normal_functional"}
)  # fmt: skip

# Reshapes

# These copy or rearrange values without changing them, though ATen does not mark them as views.
ATEN_COPYING_RESHAPES = frozenset({"_unsafe_view", "_reshape_alias", "_reshape_copy"})
ATEN_SHAPE_GIVING = frozenset({"view", "_unsafe_view", "_reshape_alias"})
NODE_TRANSPOSES = frozenset({"TBackward0", "TransposeBackward0", "PermuteBackward0"})
NODE_RESHAPES = NODE_TRANSPOSES | frozenset(
    {"ViewBackward0", "ViewBackward1", "UnsafeViewBackward0", "ReshapeAliasBackward0", "SqueezeBackward0",
     "SqueezeBackward1", "SqueezeBackward2", "UnsqueezeBackward0", "AliasBackward0", "CloneBackward0",
     "ToCopyBackward0"}
)  # fmt: skip
# Nodes that select a part of their input, and the saved attributes that identify the part.
NODE_PARTS = {
    "SliceBackward0": ("_saved_dim", "_saved_start", "_saved_end", "_saved_step"),
    "SelectBackward0": ("_saved_dim", "_saved_index"),
    "SplitBackward0": ("_saved_dim", "_saved_split_size"),
    "SplitWithSizesBackward0": ("_saved_dim", "_saved_split_sizes"),
    "UnbindBackward0": ("_saved_dim",),
}
# Nodes that put tensors together, and what keeps units apart on the way to a nonlinearity.
NODE_JOINS = frozenset(
    {"AddBackward0", "SubBackward0", "RsubBackward0", "MulBackward0", "DivBackward0", "NegBackward0", "CatBackward0",
     "StackBackward0", "CopySlices", "NativeDropoutBackward0", "MaxPool2DWithIndicesBackward0", "AvgPool2DBackward0",
     "AdaptiveAvgPool2DBackward0"}
)  # fmt: skip
NODE_LOOKUP = "EmbeddingBackward0"

# Branches of the layer graph

NODE_PRODUCTS = frozenset({"MulBackward0", "BmmBackward0"})
# The outputs of these weigh what they are multiplied with: gates, squeeze-and-excitation, attention.
NODE_BOUNDED_FACTORS = frozenset({"SigmoidBackward0", "HardsigmoidBackward0", "SoftmaxBackward0"})
NODE_PASSING_FACTORS = NODE_RESHAPES | frozenset(
    {"ExpandBackward0", "NativeDropoutBackward0", "RsubBackward0", "RsubBackward1", "SplitBackward0",
     "SplitWithSizesBackward0", "SliceBackward0", "SelectBackward0", "UnsafeSplitBackward0"}
)  # fmt: skip
# Inputs 0 and 1 are queries and keys, input 2 the values.
NODE_FUSED_ATTENTION = frozenset(
    f"ScaledDotProduct{kind}Backward0"
    for kind in (
        "FlashAttentionForCpu", "FlashAttention", "EfficientAttention", "CudnnAttention", "FusedAttentionOverrideable"
    )
)  # fmt: skip
NODE_NORMALISATIONS = frozenset(
    {"NativeLayerNormBackward0", "NativeGroupNormBackward0", "NativeBatchNormBackward0", "CudnnBatchNormBackward0",
     "MiopenBatchNormBackward0", "NativeBatchNormLegitBackward0", "FusedRmsNormBackward0"}
)  # fmt: skip
# Their outputs grow in proportion to what enters, so a normalisation behind them divides its size out.
NODE_SCALE_FREE = NODE_RESHAPES | frozenset(
    {"AddBackward0", "SubBackward0", "CatBackward0", "StackBackward0", "ExpandBackward0", "NativeDropoutBackward0",
     "SliceBackward0", "SelectBackward0", "SplitBackward0", "SplitWithSizesBackward0", "UnbindBackward0",
     "ReluBackward0", "LeakyReluBackward0", "MaxPool2DWithIndicesBackward0", "AvgPool2DBackward0",
     "AdaptiveAvgPool2DBackward0", "MeanBackward0", "MeanBackward1"}
)  # fmt: skip

# Nonlinearities, by the name without the underscore of the in-place form

_SINGLE = [record for record in NONLINEARITIES if len(record.operations) == 1]
ATEN_LINEAR_ELEMENTWISE = frozenset({"add", "sub", "rsub", "mul", "div", "neg"})
ATEN_NONLINEAR = frozenset(
    {"abs", "pow", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log", "log1p", "sin", "cos", "sinh",
     "cosh", "atan", "asinh", "erf", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "where"}
) | {record.operations[0] for record in _SINGLE}  # fmt: skip
# What a nonlinearity may be made of.
ATEN_NONLINEARITY_PARTS = ATEN_LINEAR_ELEMENTWISE | ATEN_NONLINEAR
ATEN_MIXING = frozenset(record.operations[0] for record in _SINGLE if not record.is_elementwise)
ATEN_WITH_TENSOR_ARGUMENT = frozenset(record.operations[0] for record in _SINGLE if record.has_tensor_argument)

# Which nodes keep the elements of a sample together, in the samples' order (first_axis has the proof)

NODE_KEEPING_SAMPLES = frozenset(
    f"{name}Backward0"
    for name in ("NativeDropout", "Add", "Sub", "Mul", "View", "UnsafeView", "ReshapeAlias", "Clone")
) | frozenset(record.node for record in _SINGLE if record.node and record.is_elementwise)  # fmt: skip
NODE_BATCH_FIRST = frozenset(
    f"{name}Backward0"
    for name in (
        "Convolution", "NativeGroupNorm", "MaxPool2DWithIndices", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D",
        "AdaptiveAvgPool3D", "AdaptiveMaxPool2D", "ScaledDotProductFlashAttentionForCpu",
        "ScaledDotProductFlashAttention", "ScaledDotProductEfficientAttention", "Bmm",
    )
)  # fmt: skip
# Matrix products of data with a parameter: the index of the data among the inputs.
NODE_MATRIX_DATA_INDEX = {"AddmmBackward0": 1, "MmBackward0": 0}
NODE_ALONG_ONE_AXIS = frozenset(
    {"SoftmaxBackward0", "LogSoftmaxBackward0", "SplitBackward0", "SelectBackward0", "SliceBackward0"}
)
