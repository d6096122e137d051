"""Rows about callers: their keys, what they did, and how much of their quotas they use.

What may live here: statements on these tables. What may not: HTTP, and what a key may do (service.access).
"""
