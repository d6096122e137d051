"""Findings from numbers: no torch, no I/O, the same on fresh measurements and on a report from last year.

`catalogue/` holds the rules, one file each. `judge` applies them and `policies` changes their thresholds. `signal`,
`blame` and `remedies` say how a signal shrinks, by which factor, and what to change. `compare` says what changed
between two reports; `document` writes docs/rules.md.
"""

from __future__ import annotations

from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.rules.audits import audit_result
from gradinspect.rules.catalogue import RULE_IDS, RULES, RULES_BY_ID
from gradinspect.rules.compare import compare
from gradinspect.rules.judge import judge, rejudge
from gradinspect.rules.policies import check_policy, complete, find_policy, policy_file
from gradinspect.rules.rule import Rule
from gradinspect.rules.trials import remedies_to_try

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
    "remedies_to_try",
]
