"""Second derivatives: shorter ways than torch's own for the operators that dominate products, and a right one."""

from gradinspect.engine.autograd.installed import short_second_derivatives
from gradinspect.engine.autograd.weight_norm import RightSecondDerivatives

__all__ = ["RightSecondDerivatives", "short_second_derivatives"]
