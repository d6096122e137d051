"""Reports in every form: terminal, page, notebook, markdown, JUnit, SARIF. Pure functions of a contract's report.

What may live here: words, colours, `<svg`. What may not: measuring (engine), judging (rules), files and requests.
Names come from untrusted models: each form escapes them, and `figures.printable` replaces control characters.
A number of a layer call is a line in `columns`, an output format a file and a line in `formats`.
"""
