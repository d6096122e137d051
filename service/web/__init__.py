"""The pages: HTML rendered on the server, usable without JavaScript.

What may live here: templates, styles, the script, and views that turn resources into what a template shows.
What may not: SQL (service.db), files (service.store.storage), a judgement of numbers (gradinspect.rules).
"""
