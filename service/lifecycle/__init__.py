"""What happens to an inspection and an artifact from submission to deletion.

What may live here: steps that combine rows, files and messages in a safe order. What may not: HTTP, SQL.
"""
