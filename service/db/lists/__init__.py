"""Lists with filters, sort orders and keyset cursors.

Every statement here reads one page of a list, of the caller's tenant.
"""
