"""The report document: rows per layer and parameter, sections, comparison.

This package contains fields, units and limits; no rules, no prose, no torch.
"""
