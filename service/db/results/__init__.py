"""Rows of finished reports: their tables, and the conversion of documents to rows and back.

Flattening, bulk inserts, and reads by inspection.
"""
