"""Findings from numbers: no torch, no I/O; fresh measurements and stored reports are judged alike.

`catalogue/` holds the rules, one file each. `judge` applies them and `policies` changes their thresholds. `signal`
measures how the signal changes with depth, `blame` finds the factor responsible, and `remedies` suggests a change.
`compare` lists the differences between two reports; `document` writes docs/rules.md.
"""

from __future__ import annotations

from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.rules.audits import audit_result
from gradinspect.rules.catalogue import RULE_IDS, RULES, RULES_BY_ID
from gradinspect.rules.compare import compare
from gradinspect.rules.judge import judge, rejudge
from gradinspect.rules.policies import check_policy, complete, find_policy, policy_file
from gradinspect.rules.rule import Rule

__all__ = [
    "DEFAULT_POLICY",
    "RULES",
    "RULES_BY_ID",
    "RULE_IDS",
    "Rule",
    "audit_result",
    "check_policy",
    "compare",
    "complete",
    "find_policy",
    "judge",
    "policy_file",
    "rejudge",
]
