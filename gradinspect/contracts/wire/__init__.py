"""Messages between processes and resources of the HTTP API.

This package contains documents that combine specs, requests and reports. No other folder of contracts imports it.
"""
