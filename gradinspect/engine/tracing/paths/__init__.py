"""Paths between layer calls: which call feeds which, the longest path, recurrences along one path, and joins.

What may live here: readers of the graph between layer calls. What may not: values of tensors, and report rows.
"""
