"""Sentences, titles and formatted numbers that all forms of a report share.

What may live here: words. What may not: markup of one form.
"""
