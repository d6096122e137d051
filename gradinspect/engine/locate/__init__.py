"""The operation at which a pass breaks. Runs only after a pass that was not healthy.

What may live here: the second pass and its reading. What may not: sentences and remedies (`rules/faults`).
"""
