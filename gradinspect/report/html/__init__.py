"""A report as HTML: one template for the service's page, for a file and for a notebook's cell.

What may live here: markup, the style sheet, and what the template reads. Templates escape every value.
"""
