"""How requests are read and responses written, the same for every noun.

What may live here: bodies, forms, paging, problems, waiting. What may not: a view of one noun.
"""
