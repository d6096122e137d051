"""Per-sample gradient formulas, one file per operator family.

To support an operator, write one function and register it with `@formula(node, slot)`; a new file is also imported
here, because importing a family registers its formulas.
"""

from gradinspect.engine.per_sample.formulas import (
    convolutions,
    elementwise,
    matrix_products,
    normalizations,
    tables,
)
from gradinspect.engine.per_sample.formulas.registry import factor_of, has_formula, is_elementwise

FAMILIES = (convolutions, elementwise, matrix_products, normalizations, tables)

__all__ = ["FAMILIES", "factor_of", "has_formula", "is_elementwise"]
