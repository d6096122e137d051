"""Shorter ways to second derivatives than torch's own, for the operators that dominate Hessian products."""

from gradinspect.engine.second_derivatives.installed import short_second_derivatives

__all__ = ["short_second_derivatives"]
