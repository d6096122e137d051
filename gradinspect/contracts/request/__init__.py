"""The request document: data, loss, optimizer, diagnostics and the policy that judges the result.

This package contains fields and the checks that need no model; no tensors, files or HTTP.
"""
