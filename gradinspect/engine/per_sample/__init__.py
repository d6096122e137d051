"""Gradients of single samples: ghost norms, layouts of samples, and gradient noise.

What may live here: one formula per operator, and the search for the batch axis.
"""
