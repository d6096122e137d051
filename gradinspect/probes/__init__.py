"""Experiments on the caller's model: train it briefly, compare, decide.

What may live here: learning-rate scales and their verification, the learning trial, the prescription. A
probe may read the thresholds of rules.
"""
