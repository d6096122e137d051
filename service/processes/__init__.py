"""Processes of the service: web server, broker, the embedded service, and their commands.

What may live here: starting, watching and stopping processes. What may not: requests, SQL.
"""
