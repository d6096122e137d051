"""Models, their parameters, batches, losses and optimizers.

What may live here: building, loading, seeding and restoring a model. What may not: measurements.
"""
