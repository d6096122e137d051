"""Rows of finished reports: their tables, and how documents become rows and back.

What may live here: flattening, bulk inserts, reads by inspection.
"""
