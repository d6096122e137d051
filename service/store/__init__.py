"""The store: artifacts and reports as bytes, behind the interface in `storage`.

What may live here: every `open(` on an artifact or report. What may not: SQL, HTTP.
"""
