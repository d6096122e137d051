"""The model spec: layers of torch.nn in JSON, presets, initialisation, and the plan of what a spec builds.

This package contains everything that is known of a model before a tensor is made; no torch.
"""
