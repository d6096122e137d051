"""Learning-rate scales per group of parameters: the groups, their measurement, the methods and their normalisation.

Here live the groups, what is measured for them, the methods, and how raw scales become comparable. Whether a
suggestion helps is not decided here: probes/verify tests it, probes/remedies tries something else.
"""
