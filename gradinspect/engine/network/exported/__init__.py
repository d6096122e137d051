"""Exported programs as modules: parameters under their names, and an interpreter that runs the graph under autograd."""
