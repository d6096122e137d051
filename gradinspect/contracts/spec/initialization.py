"""Initial values of parameters: functions of `torch.nn.init` by name, with torch's argument names.

`init` can be set for the whole model, a container or one layer; the nearest one counts. `weight` applies to weights
with two or more axes (matrices, kernels, embeddings, every gate of a recurrent layer) and `bias` to their biases. An
`init` of the model or a container does not change normalisation layers and PReLU, which are meant to start at scale 1
and shift 0; an `init` on such a layer itself applies. Without `init`, torch's defaults apply.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gradinspect.contracts.document import Document, Finite

Nonlinearity = Literal[
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "sigmoid", "tanh", "relu", "leaky_relu", "selu",
]  # fmt: skip
NonNegative = Annotated[Finite, Field(ge=0)]


class Initializer(Document):
    """One function of `torch.nn.init`; `axes` is the range of axes that its tensor may have."""

    axes: ClassVar[tuple[int, int]] = (0, 8)
    name: str

    def arguments(self) -> dict[str, float | str]:
        """Return the function's arguments after the tensor."""
        return {field: getattr(self, field) for field in type(self).model_fields if field != "name"}

    def obstacle(self, shape: tuple[int, ...]) -> str | None:
        """Return why a tensor of `shape` cannot be filled, or None."""
        low, high = self.axes
        if low <= len(shape) <= high:
            return None
        axes = f"{low}" if low == high else f"{low} to {high}"
        return f"{self.name} fills tensors with {axes} axes, not one of shape {list(shape)}"


class Zeros(Initializer):
    """0 everywhere."""

    name: Literal["zeros_"]


class Ones(Initializer):
    """1 everywhere."""

    name: Literal["ones_"]


class Constant(Initializer):
    """`val` everywhere."""

    name: Literal["constant_"]
    val: Finite


class Uniform(Initializer):
    """U[a, b)."""

    name: Literal["uniform_"]
    a: Finite = 0.0
    b: Finite = 1.0

    def obstacle(self, shape: tuple[int, ...]) -> str | None:
        return super().obstacle(shape) if self.a <= self.b else "a must not be larger than b"


class Normal(Initializer):
    """N(mean, std²)."""

    name: Literal["normal_"]
    mean: Finite = 0.0
    std: NonNegative = 1.0


class TruncNormal(Initializer):
    """N(mean, std²), drawn again until inside [a, b]."""

    name: Literal["trunc_normal_"]
    mean: Finite = 0.0
    std: Annotated[Finite, Field(gt=0)] = 1.0
    a: Finite = -2.0
    b: Finite = 2.0

    def obstacle(self, shape: tuple[int, ...]) -> str | None:
        if not self.a < self.b:
            return "a must be smaller than b"
        # torch warns and draws a wrong distribution when the interval is outside mean ± 2 std.
        if self.mean < self.a - 2 * self.std or self.mean > self.b + 2 * self.std:
            return "mean lies more than 2 std outside [a, b]; move the interval"
        return super().obstacle(shape)


class XavierUniform(Initializer):
    """U[−c, c] with c = gain·√(6 / (fan_in + fan_out)): Glorot and Bengio 2010."""

    axes: ClassVar[tuple[int, int]] = (2, 8)
    name: Literal["xavier_uniform_"]
    gain: NonNegative = 1.0


class XavierNormal(Initializer):
    """N(0, gain²·2 / (fan_in + fan_out)): Glorot and Bengio 2010."""

    axes: ClassVar[tuple[int, int]] = (2, 8)
    name: Literal["xavier_normal_"]
    gain: NonNegative = 1.0


class _Kaiming(Initializer):
    axes: ClassVar[tuple[int, int]] = (2, 8)
    a: Finite = 0.0
    mode: Literal["fan_in", "fan_out"] = "fan_in"
    nonlinearity: Nonlinearity = "leaky_relu"


class KaimingUniform(_Kaiming):
    """Uniform with std = gain / √fan: He et al. 2015."""

    name: Literal["kaiming_uniform_"]


class KaimingNormal(_Kaiming):
    """Normal with std = gain / √fan: He et al. 2015."""

    name: Literal["kaiming_normal_"]


class Orthogonal(Initializer):
    """Orthonormal rows or columns, times `gain`: Saxe et al. 2013."""

    axes: ClassVar[tuple[int, int]] = (2, 8)
    name: Literal["orthogonal_"]
    gain: NonNegative = 1.0


class Eye(Initializer):
    """The identity."""

    axes: ClassVar[tuple[int, int]] = (2, 2)
    name: Literal["eye_"]


class Dirac(Initializer):
    """Kernels that pass their channel through unchanged."""

    axes: ClassVar[tuple[int, int]] = (3, 5)
    name: Literal["dirac_"]
    groups: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1

    def obstacle(self, shape: tuple[int, ...]) -> str | None:
        problem = super().obstacle(shape)
        if problem is None and shape[0] % self.groups:
            return f"groups {self.groups} does not divide the kernel's first axis, {shape[0]}"
        return problem


class Sparse(Initializer):
    """N(0, std²) with a share `sparsity` of each column set to 0: Martens 2010."""

    axes: ClassVar[tuple[int, int]] = (2, 2)
    name: Literal["sparse_"]
    sparsity: Annotated[Finite, Field(ge=0, le=1)]
    std: NonNegative = 0.01


WeightInitializer = Annotated[
    Zeros | Ones | Constant | Uniform | Normal | TruncNormal | XavierUniform | XavierNormal
    | KaimingUniform | KaimingNormal | Orthogonal | Eye | Dirac | Sparse,
    Field(discriminator="name"),
]  # fmt: skip
BiasInitializer = Annotated[Zeros | Ones | Constant | Uniform | Normal | TruncNormal, Field(discriminator="name")]


class Init(Document):
    """Initialisers of weights and biases; an omitted part keeps torch's default."""

    weight: WeightInitializer | None = None
    bias: BiasInitializer | None = None
    residual: WeightInitializer | None = Field(
        default=None,
        description="Instead of `weight`, for what an attention layer or transformer block adds to its input: the "
        "output projection and the second linear layer. GPT-2 scales these by 1/√(2·blocks).",
    )
