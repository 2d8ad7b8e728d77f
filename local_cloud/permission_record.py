"""What every role asked for and was granted or refused: the evidence for "granted against used".

Sits on the emulator's evaluator, which all checks go through: requests over HTTP as well as those in
`local_cloud.permissions`. Memory is bounded: by the statements of the policies for what was allowed, by a number of
resources for what was refused.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ministack.core import iam_evaluator
from ministack.core.iam_evaluator import EvalContext, EvalResult, ParsedStatement
from ministack.services import iam

ROLES = 1000
"""Roles that are told apart; requests of further ones are only counted."""
ENTRIES = 500
"""Different entries per role; further ones are only counted."""
NO_STATEMENT = -1
RESOURCE_POLICY = "resource policy"
"""Stands for the policy when not the role's own policies but the resource's decided."""

_evaluate = iam_evaluator.evaluate
_combine = iam_evaluator.combine_resource_policy


@dataclass(frozen=True)
class Entry:
    """One kind of request: the action, the resource (the statement's pattern where one allowed it) and what decided.

    `policy` is the policy's ARN or, for an inline one, its name; `statement` is the index in it, -1 where none decided.
    """

    action: str
    resource: str
    allowed: bool
    policy: str = ""
    statement: int = NO_STATEMENT


class PermissionRecord:
    """Counts of entries by role name. Safe to use from any thread."""

    def __init__(self, roles: int = ROLES, entries: int = ENTRIES) -> None:
        self._roles = roles
        self._entries = entries
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[Entry]] = {}
        self._dropped = 0

    def add(self, role: str, entry: Entry, times: int = 1) -> None:
        """Count a request; a negative number takes back what was counted too early."""
        with self._lock:
            counts = self._counts.get(role)
            if counts is None and len(self._counts) < self._roles:
                counts = self._counts[role] = Counter()
            if counts is None or (entry not in counts and len(counts) >= self._entries):
                self._dropped += times
                return
            counts[entry] += times
            if not counts[entry]:
                del counts[entry]

    def shown(self) -> dict[str, Any]:
        """`roles`: by role name a list of entries with their counts; `dropped`: requests that found no room."""
        with self._lock:
            return {
                "dropped": self._dropped,
                "roles": {
                    role: [{**entry.__dict__, "count": count} for entry, count in counts.items()]
                    for role, counts in sorted(self._counts.items())
                },
            }


class _Origin(ParsedStatement):  # type: ignore[misc]
    """A statement that knows where it stands."""

    policy: str = ""
    index: int = NO_STATEMENT


record = PermissionRecord()


def install() -> None:
    """Record from now on, from nothing."""
    global record
    record = PermissionRecord()
    iam_evaluator._gather_role_policies = _policies_with_origin
    iam_evaluator.evaluate = _evaluate_and_record
    iam_evaluator.combine_resource_policy = _combine_and_record


def _policies_with_origin(role_name: str, account: str) -> list[list[ParsedStatement]]:
    role = iam._roles.get_scoped(account, None, role_name)
    if role is None:
        return []
    documents = list((role.get("InlinePolicies") or {}).items())
    for arn in role.get("AttachedPolicies", []):
        document = iam_evaluator._resolve_managed_policy_document(arn, account)
        if document:
            documents.append((arn, document))
    return [found for name, document in documents if (found := _with_origin(name, document))]


def _with_origin(policy: str, document: Any) -> list[ParsedStatement]:
    found = []
    for index, parsed in enumerate(iam_evaluator.parse_policy_document(document)):
        statement = _Origin(**parsed.__dict__)
        statement.policy, statement.index = policy, index
        found.append(statement)
    return found


def _evaluate_and_record(
    context: EvalContext, policies: list[list[ParsedStatement]], *limits: list[list[ParsedStatement]]
) -> EvalResult:
    result = _evaluate(context, policies, *limits)
    # The evaluator comes here for a resource's policy as well, whose answer `_combine_and_record` sees.
    of_role = not policies or (policies[0] and isinstance(policies[0][0], _Origin))
    if context.principal_type == "AssumedRole" and of_role:
        role, entry = _role(context), _entry(context, policies, result)
        context.recorded = (role, entry)
        record.add(role, entry)
    return result


def _combine_and_record(identity: EvalResult, context: EvalContext, *arguments: Any, **named: Any) -> EvalResult:
    """The resource's own policy may overrule the role's: then that is what decided."""
    result = _combine(identity, context, *arguments, **named)
    noted = getattr(context, "recorded", None)
    if noted is not None and (result.decision == "Allow") != (identity.decision == "Allow"):
        role, entry = noted
        record.add(role, entry, -1)
        allowed = result.decision == "Allow"
        record.add(role, Entry(context.action, context.resource_arn, allowed, RESOURCE_POLICY))
    return result


def _role(context: EvalContext) -> str:
    """The role's name, from `arn:aws:sts::<account>:assumed-role/<role>/<session>`."""
    return str(iam_evaluator._role_name_from_assumed_arn(context.principal_arn))


def _entry(context: EvalContext, policies: Sequence[Sequence[ParsedStatement]], result: EvalResult) -> Entry:
    action, resource = context.action, context.resource_arn
    if result.decision != "Allow":
        return Entry(action, resource, False)
    statement = iam_evaluator._first_match(context, [each for policy in policies for each in policy], "Allow")
    if not isinstance(statement, _Origin):
        return Entry(action, resource, True)
    pattern = next((each for each in statement.resources if iam_evaluator.fnmatch_iam_cs(resource, each)), resource)
    return Entry(action, pattern, True, statement.policy, statement.index)
