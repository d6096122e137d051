"""The HTTP API: one file per noun, with views of a few lines that parse, call and answer.

What may live here: everything that knows a request or a response. What may not: `select(` and `update(` (service.db),
files (service.store), the environment (service.settings), pages for people (service.web), torch (nowhere in service).
"""
