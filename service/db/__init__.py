"""The database: tables, one module per noun, and the queries over them.

Functions here take a session of `Database.read()` or `Database.write()` and, on behalf of a caller, the caller's
tenant. `select(`, `update(` and `insert(` are used only here. A state change is one conditional UPDATE
whose row count is checked, and "now" is the database's.
"""

DEFAULT_TENANT = "default"
