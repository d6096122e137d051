"""The rules, one file each, in the order in which findings of one severity are listed.

Each file has one `check` and one `RULE`: what is measured, why it matters, thresholds with their sources, the message
and the remedy. Code shared by rules is in `gradinspect.rules`. To add a rule, add a file and list it in `RULES`.
"""

from __future__ import annotations

from gradinspect.rules.catalogue.data import (
    batch_statistics,
    input_scale,
    output_activation,
    target_scale,
    target_shape,
)
from gradinspect.rules.catalogue.numerics import (
    absolute_gradient_floor,
    low_precision_overflow,
    low_precision_underflow,
    non_finite,
)
from gradinspect.rules.catalogue.parameters import (
    frozen_parameter,
    optimizer_misses_parameter,
    symmetry,
    uneven_gradients,
    unregistered_parameter,
    unused_parameter,
    zero_gradient,
)
from gradinspect.rules.catalogue.signal import (
    correlation_collapse,
    exploding_signal,
    initialization_mismatch,
    normalization_growth,
    poor_initialization,
    vanishing_signal,
)
from gradinspect.rules.catalogue.training import (
    does_not_learn,
    initial_loss,
    learning_rate,
    loss_balance,
    noise_dominated,
    optimizer_step,
    sharpness,
    training_decay,
    update_ratio,
)
from gradinspect.rules.catalogue.units import dead_units, saturated_activation
from gradinspect.rules.rule import Rule

RULES: tuple[Rule, ...] = (
    non_finite.RULE,
    target_shape.RULE,
    output_activation.RULE,
    input_scale.RULE,
    target_scale.RULE,
    batch_statistics.RULE,
    symmetry.RULE,
    unregistered_parameter.RULE,
    optimizer_misses_parameter.RULE,
    vanishing_signal.RULE,
    exploding_signal.RULE,
    uneven_gradients.RULE,
    poor_initialization.RULE,
    initialization_mismatch.RULE,
    dead_units.RULE,
    correlation_collapse.RULE,
    saturated_activation.RULE,
    zero_gradient.RULE,
    unused_parameter.RULE,
    frozen_parameter.RULE,
    does_not_learn.RULE,
    learning_rate.RULE,
    optimizer_step.RULE,
    update_ratio.RULE,
    low_precision_underflow.RULE,
    low_precision_overflow.RULE,
    sharpness.RULE,
    initial_loss.RULE,
    loss_balance.RULE,
    training_decay.RULE,
    noise_dominated.RULE,
    normalization_growth.RULE,
    absolute_gradient_floor.RULE,
)
RULES_BY_ID: dict[str, Rule] = {rule.id: rule for rule in RULES}
RULE_IDS: tuple[str, ...] = tuple(RULES_BY_ID)
