"""The first forward and backward pass: its inputs, its memory, and how it is repeated.

What may live here: running the traced pass. What may not: what the trace records (`tracing`) or its rows (`rows`).
"""
