"""The untrusted side of a worker: the fork server and the confined process that runs a model.

What may live here: confinement and the run itself. Nothing of the service, no secret, no network.
"""
