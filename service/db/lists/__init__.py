"""Lists with filters, sort orders and keyset cursors.

What may live here: statements that read one page of a list. Every statement takes the caller's tenant.
"""
