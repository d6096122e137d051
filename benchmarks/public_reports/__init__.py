"""Networks of the kinds that public reports of failed training describe, and what a report says about them."""
