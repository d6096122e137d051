"""Reports as text: terminal, markdown, and charts made of characters.

What may live here: one file per form. Control characters in names are replaced.
"""
