"""Reports for continuous integration: JUnit and SARIF.

What may live here: one file per format. Each format validates against its schema in a test.
"""
