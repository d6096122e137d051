"""Gradients of single samples: their norms, where each tensor has its samples, and gradient noise.

What may live here: formulas per operator (`formulas/`), and the search for the batch axis.
"""
