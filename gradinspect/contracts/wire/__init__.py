"""Messages between processes and resources of the HTTP API.

What may live here: documents that combine specs, requests and reports. No other folder of contracts imports it.
"""
