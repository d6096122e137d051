"""One inspection from a job to a report: the only folder that combines engine, probes and rules.

What may live here: order, budgets and progress of the parts. What may not: formulas (engine), thresholds (rules).
"""
