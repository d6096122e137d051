"""Mutation testing: small changes to the code, each of which a test must notice.

`python -m tests.mutation` (or `make mutate`) draws a seeded sample of changes to the engine, the probes, the rules and
the database, and runs for each one the tests that execute the changed line.
"""
