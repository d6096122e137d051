"""The database: tables, one module per noun, and the queries over them.

A function here takes a session of `Database.read()` or `Database.write()` and, where a caller is behind it, the
caller's tenant. `select(`, `update(` and `insert(` live here and nowhere else. A state change is one conditional UPDATE
whose row count is checked, and "now" is the database's.
"""

DEFAULT_TENANT = "default"
