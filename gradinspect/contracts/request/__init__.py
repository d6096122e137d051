"""The request document: data, loss, optimizer, diagnostics and the policy that judges the result.

What may live here: fields and the checks that need no model. What may not: tensors, files, HTTP.
"""
