"""Models, their parameters, batches and losses.

What may live here: building, loading, seeding and restoring a model. What may not: measurements.
"""
