"""What surrounds the network: the batch, the way from the output to the loss, and the optimizer's first step.

A field is absent where there was nothing to measure. Lists of exceptions are empty for an ordinary network.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Name
from gradinspect.contracts.report.operations import Operation
from gradinspect.contracts.report.rows import MAX_PARAMETERS, Names, Number, Share, Sizes

MAX_TENSORS = 32  # inputs and targets of one batch
MAX_HEADS = 16  # uses of outputs by one loss
MAX_UNREGISTERED = 256
MAX_FEATURES = 1024  # of one tensor, whose statistics are listed

Numbers = Annotated[tuple[Number, ...], Field(max_length=MAX_FEATURES)]


class BatchTensor(Document):
    """Statistics of one input or target, from a sample of its finite elements.

    Zeros are left out of every rms: they are padding, empty positions or absent classes.
    """

    name: Name = Field(description="`input 0`, `input 1` …, `target`.")
    role: Literal["input", "target"]
    dtype: Name
    shape: Sizes
    feature_axis: Count | None = None
    zero_fraction: Share = None
    mean: Number = None
    std: Number = None
    rms: Number = None
    abs_max: Number = None
    largest_rms: Number = Field(default=None, description="Of the feature with the largest rms.")
    largest_feature: Count | None = None
    smallest_rms: Number = Field(default=None, description="Of the features that vary and are rarely 0.")
    smallest_feature: Count | None = None
    largest_offset: Number = Field(
        default=None, description="|mean| / std, of the features that vary and are rarely 0."
    )
    offset_feature: Count | None = None
    feature_means: Numbers = ()
    feature_stds: Numbers = ()
    is_mask: bool = Field(default=False, description="All elements are 0 or one large negative number.")
    layers: Names = Field(default=(), description="Layers that take an input as it is.")


class OutputHead(Document):
    """How a loss reads an output: the function it applies, and the last operation of the network before it."""

    loss_function: Name = Field(description="cross_entropy, bce_with_logits, nll, mse …")
    last_operation: Name | None = Field(default=None, description="softmax, sigmoid, tanh, relu …")
    is_over_samples: bool = Field(default=False, description="A softmax that runs over the samples of the batch.")
    log_probability_error: Number = Field(
        default=None, description="nll: the median distance of logsumexp(output) from 0."
    )
    targets_outside: Share = Field(default=None, description="Targets that the output cannot reach.")
    target_low: Number = None
    target_high: Number = None
    output_shape: Sizes = ()
    target_shape: Sizes = ()
    compared_shape: Sizes = Field(default=(), description="Where output and target were stretched to a common shape.")
    operation: Operation | None = None


class UnregisteredTensor(Document):
    """A tensor that the model's output depends on, which requires a gradient and is none of its parameters."""

    name: Name = Field(description="The attribute that holds it, or where it is unknown `(unknown)`.")
    shape: Sizes = ()


class ParameterStep(Document):
    """The first step of the declared optimizer on one parameter, in the parameter's own precision."""

    parameter: Name
    dtype: Name
    nonfinite_fraction: Share = Field(default=None, description="Elements that are not finite after the step.")
    lost_fraction: Share = Field(default=None, description="Part of the step that rounds to nothing.")


class OptimizerGroup(Document):
    """One group of an optimizer."""

    lr: Number = None
    parameters: Count


class OptimizerObject(Document):
    """An optimizer object as it was given."""

    name: Name
    groups: Annotated[tuple[OptimizerGroup, ...], Field(max_length=1024)] = ()
    missing: Names = Field(default=(), description="Trained parameters of the model that it does not hold.")
    missing_count: Count = 0
    foreign_count: Count = Field(default=0, description="Tensors that it holds and the model does not.")


class RepeatedRows(Document):
    """A matrix whose rows are equal, in values and in gradients."""

    parameter: Name
    share: Share = Field(description="Rows that repeat the row before, of all but the first; from a sample.")


class Setup(Document):
    """What surrounds the network in one training step."""

    tensors: Annotated[tuple[BatchTensor, ...], Field(max_length=MAX_TENSORS)] = ()
    samples: Count | None = None
    conflicting_samples: Share = Field(
        default=None, description="Samples with the same input as another one and a different target."
    )
    heads: Annotated[tuple[OutputHead, ...], Field(max_length=MAX_HEADS)] = ()
    steps: Annotated[tuple[ParameterStep, ...], Field(max_length=MAX_PARAMETERS)] = Field(
        default=(), description="Parameters of which a part is not finite after the step, or does not move."
    )
    repeated_rows: Annotated[tuple[RepeatedRows, ...], Field(max_length=MAX_PARAMETERS)] = ()
    unregistered: Annotated[tuple[UnregisteredTensor, ...], Field(max_length=MAX_UNREGISTERED)] = ()
    optimizer: OptimizerObject | None = None
    single_element_norms: Names = Field(default=(), description="Layers that normalise over one element.")
    single_sample_norms: Names = Field(
        default=(), description="Layers that normalise over the batch, in training mode, where it has one sample."
    )
    fresh_statistics: Names = Field(
        default=(), description="In evaluation mode: layers whose running statistics were never updated."
    )
