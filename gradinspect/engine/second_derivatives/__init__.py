"""Second derivatives: shorter ways than torch's own for the operators that dominate products, and a right one."""

from gradinspect.engine.second_derivatives.installed import short_second_derivatives
from gradinspect.engine.second_derivatives.weight_norm import RightSecondDerivatives

__all__ = ["RightSecondDerivatives", "short_second_derivatives"]
