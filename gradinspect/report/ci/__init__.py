"""Reports for continuous integration: JUnit and SARIF.

What may live here: one file per format, which a test validates against the format's schema.
"""
