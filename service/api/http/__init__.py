"""Reading of requests and writing of responses, shared by all nouns.

Bodies, forms, paging, problems and waiting; no view of a single noun.
"""
