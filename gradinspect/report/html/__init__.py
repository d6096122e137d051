"""A report as one self-contained HTML page.

What may live here: markup and its style sheet. Every name of a model is escaped.
"""
