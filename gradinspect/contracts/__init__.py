"""Data that crosses a boundary: requests, specs, reports, messages and problems, as typed and bounded documents.

No torch, no server, no database: both applications, the client, the CLI and a notebook share these models.
"""
