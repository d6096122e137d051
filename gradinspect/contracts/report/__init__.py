"""The report document: rows per layer and parameter, sections, comparison.

What may live here: fields, units and their limits. What may not: rules, words for people, torch.
"""
