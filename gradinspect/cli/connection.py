"""The service of --server, for every command that has the option."""

from __future__ import annotations

from gradinspect.cli.credentials import current_key
from gradinspect.cli.failures import WRONG_CALL, Failure
from gradinspect.client import Client
from gradinspect.contracts.problems import ProblemError


def connect(server: str) -> Client:
    """Make a client for a service, with the key of --key or of the profile; nothing is sent yet.

    Raises:
        Failure: the text is not an address, or the file of profiles cannot be used.
    """
    try:
        return Client(server, key=current_key(server))
    except ProblemError as error:
        raise Failure(f"--server: {error.detail}", exit_code=WRONG_CALL) from None
