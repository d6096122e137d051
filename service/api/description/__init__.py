"""The API's own description: openapi.json and the page /docs.

What may live here: how operations are documented. What may not: operations.
"""
