"""From measurements to the rows of the report, averages over seeds, and the fit of depth decay.

What may live here: plain numbers. What may not: tensors of a pass, thresholds, sentences.
"""
