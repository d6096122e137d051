"""Experiments on the caller's model: train it briefly, compare, decide.

What may live here: learning-rate scales, remedies and their verification. A probe may read the thresholds of rules.
"""
