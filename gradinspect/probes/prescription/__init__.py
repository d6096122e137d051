"""The prescription: changes with which the model was seen to learn.

What may live here: which changes to try, in which order, and how one plan is tried. A plan is tried as text: the block
that the report prints is executed on a fresh copy, which `probes.trial` then trains.
"""
