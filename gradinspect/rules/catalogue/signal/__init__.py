"""Rules about how the signal changes with depth."""
