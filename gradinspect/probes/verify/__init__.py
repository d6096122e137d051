"""The gate: a suggestion is tested on the caller's own model before it is recommended.

Here live the probe's data, its training runs, the search for each arm's own base rate, and the decision. An arm is a
way to train (scales, or a remedy); what the arms are is decided in probes/scales and probes/remedies.
"""
