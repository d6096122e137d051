"""One traced pass: forward values, backward signals and gradients, read from the autograd graph.

What may live here: readers of graph nodes, and the operator tables that name them. What may not: report rows.
"""
