"""The API's own description: openapi.json and the page /docs.

This package documents operations and defines none.
"""
