"""Reports in every form: terminal, page, notebook, markdown, JUnit, SARIF, code. Pure functions of a contract's report.

What may live here: words, colours, `<svg`. What may not: measuring (engine), judging (rules), files and requests.
Names come from strangers' models: each form escapes them, and `figures.printable` takes out what steers a terminal.
"""
