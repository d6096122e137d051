"""Second derivatives of chosen operators: shorter than torch's own where they dominate products, or correct.

What may live here: one file per operator family, with the formula. To add one, write a `torch.autograd.Function` for
the operator's backward pass, register it with `@rule_for(operator)`, and import the file in `installed`.
"""

from gradinspect.engine.autograd.installed import short_second_derivatives
from gradinspect.engine.autograd.weight_norm import RightSecondDerivatives

__all__ = ["RightSecondDerivatives", "short_second_derivatives"]
