"""Who calls, and what they may do: keys, scopes, sessions, rates and the audit log, around every request.

What may live here: what the API and the pages both need to know about a caller. What may not: views, SQL.
"""
