"""Self-checks of a report: repeated calls and finite differences.

What may live here: independent ways to compute what a pass measured. A check never changes a row.
"""
