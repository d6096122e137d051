"""One program per table of costs: `python -m benchmarks.first_order`. README.md lists them.

What may live here: measurements as ratios within one run. What may not: assertions; nothing imports this package.
"""
