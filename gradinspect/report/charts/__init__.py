"""Charts as SVG: pure functions from numbers to markup.

What may live here: `<svg`, axes, colours of lines. What may not: sentences about a verdict.
"""
