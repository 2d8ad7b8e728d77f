"""Permissions of the roles and services that act inside the local cloud.

The emulator enforces IAM on what arrives over HTTP. What it does on its own behalf (a state machine's task, a schedule,
a rule, a function's log) it does as the account's root; these checks put the role back, with the emulator's evaluator.
All of them read the emulator's stores and so run in the account and region of the calling context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ministack.core import iam_actions, iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import dynamodb, iam

from local_cloud import permission_record

_request_tag_context = iam_actions.request_tag_context
_extract_resource_arn = iam_actions.extract_resource_arn


@dataclass(frozen=True)
class RoleSession:
    """A role that something assumed: the role's ARN and the session's name."""

    role_arn: str
    name: str

    @property
    def role_name(self) -> str:
        """The role's name without its path."""
        return self.role_arn.rsplit("/", 1)[-1]

    @property
    def arn(self) -> str:
        """The ARN that AWS names in a denial: `arn:aws:sts::<account>:assumed-role/<role>/<session>`."""
        account = self.role_arn.split(":")[4] if self.role_arn.count(":") >= 5 else get_account_id()
        return f"arn:aws:sts::{account}:assumed-role/{self.role_name}/{self.name}"


def install() -> None:
    """Complete the emulator's IAM: condition keys and resources it leaves out, and a record of what was asked."""
    permission_record.install()
    iam_actions.request_tag_context = request_context
    iam_actions.extract_resource_arn = resource_of


def resource_of(
    service: str,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    params: dict[str, Any],
    region: str,
    account: str,
) -> str:
    """The resource of a request, as the emulator finds it; for a list of all DB instances each of them, as on RDS."""
    found = str(_extract_resource_arn(service, method, path, headers, body, params, region, account))
    if found == "*" and service == "rds" and "DescribeDBInstances" in (params.get("Action") or ""):
        return f"arn:aws:rds:{region}:{account}:db:*"
    return found


def request_context(service: str, action: str, body: bytes, params: dict[str, Any]) -> dict[str, Any]:
    """The condition keys of a request: the emulator's plus `cloudwatch:namespace` and `dynamodb:LeadingKeys`."""
    context: dict[str, Any] = dict(_request_tag_context(service, action, body, params))
    if action == "cloudwatch:PutMetricData" and (namespace := _metric_namespace(body, params)):
        context["cloudwatch:namespace"] = namespace
    if service == "dynamodb" and (keys := _leading_keys(body)):
        context["dynamodb:LeadingKeys"] = keys
    return context


def _metric_namespace(body: bytes, params: Mapping[str, Any]) -> str:
    value = params.get("Namespace", "")
    if value:
        return str(value[0] if isinstance(value, list) else value)
    try:
        request = json.loads(body)
    except ValueError:
        return ""
    return str(request.get("Namespace", "")) if isinstance(request, dict) else ""


def _leading_keys(body: bytes) -> list[str]:
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return []
    if not isinstance(request, dict):
        return []
    table = dynamodb._tables.get(str(request.get("TableName", "")).rsplit("/", 1)[-1]) or {}
    value = (request.get("Key") or request.get("Item") or {}).get(table.get("pk_name", ""))
    return [str(next(iter(value.values())))] if isinstance(value, dict) and value else []


def role_trusts(role_arn: str, service: str, source_arn: str = "") -> bool:
    """Whether the role's trust policy lets the service (`states.amazonaws.com`) assume it for the source."""
    role = iam._roles.get(role_arn.rsplit("/", 1)[-1])
    if role is None:
        return False
    document = role.get("AssumeRolePolicyDocument") or "{}"
    trust = json.loads(document) if isinstance(document, str) else document
    statements = trust.get("Statement", [])
    statements = [statements] if isinstance(statements, dict) else statements
    # A trust policy names no resource; the evaluator of resource policies wants one.
    policy = {"Statement": [{**statement, "Resource": "*"} for statement in statements]}
    return service_denial(service, "sts:AssumeRole", role_arn, policy, source_arn) is None


def service_denial(
    service: str, action: str, resource: str, policy: str | Mapping[str, Any] | None, source_arn: str
) -> str | None:
    """Why a resource's own policy refuses an AWS service that acts for the source, or None when it allows it."""
    context = iam_evaluator.EvalContext(
        principal_arn=service,
        principal_type="Service",
        principal_account=get_account_id(),
        action=action,
        resource_arn=resource,
        region=get_region(),
        source_ip=service,
        secure_transport=True,
        service_context={
            "aws:sourcearn": source_arn or None,
            "aws:sourceaccount": get_account_id(),
            "aws:principalisawsservice": "true",
            "aws:principalservicename": service,
        },
    )
    result = iam_evaluator.evaluate_resource_policy(policy, context, service=service)
    if result.decision == "Allow":
        return None
    return f"User: {service} is not authorized to perform: {action} on resource: {resource}"


def role_denial(
    session: RoleSession, action: str, resource: str, *, service: str = "", context: Mapping[str, Any] | None = None
) -> str | None:
    """Why the role may not do it, in AWS's words, or None when it may.

    `service` is the emulator's name of the called service: given, the resource's own policy counts too (and a KMS key
    policy must allow).
    """
    account = get_account_id()
    if iam._roles.get(session.role_name) is None:
        return _identity_denial(session, action, resource, explicit=False)
    evaluation = iam_evaluator.EvalContext(
        principal_arn=session.arn,
        principal_type="AssumedRole",
        principal_account=account,
        action=action,
        resource_arn=resource,
        region=get_region(),
        secure_transport=True,
        service_context={"aws:tagkeys": None, **{key.lower(): value for key, value in (context or {}).items()}},
        principal_keys={"aws:userid": f"{session.role_name}:{session.name}"},
    )
    policies = iam_evaluator._gather_role_policies(session.role_name, account)
    limits = iam_evaluator._permissions_boundary(iam._roles, session.role_name, account)
    if iam_evaluator._names_condition_key(policies, "aws:resourcetag/"):
        from ministack.services.tagging import resource_tags

        for name, value in (resource_tags(resource) or {}).items():
            evaluation.service_context.setdefault(f"aws:resourcetag/{name}".lower(), value)
    result = iam_evaluator.evaluate(evaluation, policies, *limits)
    found = iam_evaluator._resource_policy(service, resource) if service else None
    if found is not None:
        required = service in iam_evaluator._POLICY_REQUIRED
        result = iam_evaluator.combine_resource_policy(result, evaluation, *found, required=required, limits=limits)
    if result.decision == "Allow":
        return None
    return _identity_denial(session, action, resource, explicit=result.decision == "Deny")


def _identity_denial(session: RoleSession, action: str, resource: str, *, explicit: bool) -> str:
    message: str = iam_actions.identity_denial_message(action, session.arn, resource, explicit)
    return message
