"""The pages for people: HTML made on the server from what the API reads too, useful without JavaScript.

What may live here: templates, styles, the little script, and views that turn resources into what a template shows.
What may not: SQL (service.db), files (service.store.storage), a judgement of numbers (gradinspect.rules).
"""
