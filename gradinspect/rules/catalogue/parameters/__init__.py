"""Rules about single parameters and their gradients."""
