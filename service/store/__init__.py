"""Files of the service: artifacts and reports.

What may live here: every `open(` on an artifact or report. What may not: SQL, HTTP.
"""
