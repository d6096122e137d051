"""Statistics of single tensors, accumulated in float64.

What may live here: functions of tensors that know no model. What may not: modules, autograd graphs, rows of a report.
"""
