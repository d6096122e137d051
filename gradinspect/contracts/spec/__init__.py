"""The model spec: layers of torch.nn in JSON, presets, initialisation, and the plan of what a spec builds.

What may live here: everything that is known of a model before a tensor is made. What may not: torch.
"""
