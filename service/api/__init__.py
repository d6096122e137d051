"""The HTTP API: one file per noun, with views of a few lines that parse, call and answer.

Everything that knows a request or a response is here. Elsewhere: `select(` and `update(` (service.db), files
(service.store), the environment (service.settings), HTML pages (service.web). No part of service imports torch.
"""
