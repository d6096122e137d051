"""The pass that every inspection makes: its inputs, its memory, and how it is repeated.

What may live here: running the traced pass. What may not: what the trace records (tracing) or its rows (rows).
"""
