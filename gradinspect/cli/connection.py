"""The service of --server, for every command that has the option."""

from __future__ import annotations

from gradinspect.cli.failures import WRONG_CALL, Failure
from gradinspect.client import Client
from gradinspect.contracts.problems import ProblemError


def connect(server: str) -> Client:
    """Make a client for a service; nothing is sent yet.

    Raises:
        Failure: the text is not an address.
    """
    try:
        return Client(server)
    except ProblemError as error:
        raise Failure(f"--server: {error.detail}", exit_code=WRONG_CALL) from None
