"""One program per table of costs: `python -m benchmarks.first_order`. README.md lists them.

Measurements are ratios within one run. There are no assertions, and no other package imports this one.
"""
