"""Stored policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradinspect.client.calls import Calls
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.wire.resources import PolicyResource
from gradinspect.rules import find_policy


class Policies:
    """`client.policies`: create, get, export, list, delete."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(self, policy: Policy | dict[str, Any]) -> PolicyResource:  # Any: JSON until it is validated
        """Store a policy, or a new version of one.

        Raises:
            ProblemError: the policy is wrong; `errors` names rule and field.
            Conflict: this version exists already.
        """
        body = find_policy(policy).model_dump(mode="json", exclude_unset=True)
        return self._calls.read(PolicyResource, "POST", "/v1/policies", json=body)

    def get(self, policy_id: str) -> PolicyResource:
        """Return a policy; `default` is the built-in one."""
        return self._calls.read(PolicyResource, "GET", f"/v1/policies/{policy_id}")

    def export(self, policy_id: str) -> Policy:
        """Return every rule with its thresholds under a policy."""
        return self._calls.read(Policy, "GET", f"/v1/policies/{policy_id}", query={"format": "file"})

    def list(self) -> Iterator[PolicyResource]:
        """Yield policies, the built-in one first."""
        return self._calls.pages(PolicyResource, "/v1/policies", {})

    def delete(self, policy_id: str) -> None:
        """Delete a policy; inspections keep their copy of it."""
        self._calls.send("DELETE", f"/v1/policies/{policy_id}")
