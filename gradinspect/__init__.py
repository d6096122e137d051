"""gradinspect: measure, judge and show how gradients flow through a network."""
