"""The trusted side of a worker: claim an inspection, start a child, validate what it sends, judge, deliver.

What may live here: leases, supervision, the Celery task. Never torch.
"""
