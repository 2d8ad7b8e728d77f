"""What the deployed roles may do, read from the stacks as they are deployed: no list of it is kept here."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deployment.account import Account
from deployment.cdk import stack_name

Document = dict[str, Any]


class NotOwnPolicies(Exception):
    """A role's permissions are not where they can be read, compared and taken away: in customer-managed policies."""


@dataclass(frozen=True)
class Grant:
    """One action of one statement: `role` is the deployed name, `short` the same without the environment's suffix."""

    role: str
    short: str
    policy: str
    statement: int
    action: str
    resources: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.short} {self.action}"


@dataclass(frozen=True)
class Policy:
    """A customer-managed policy: its ARN and the document of its default version."""

    arn: str
    document: Document

    def grants(self, role: str, short: str) -> Iterator[Grant]:
        """Every action it allows."""
        for index, statement in enumerate(statements(self.document)):
            if statement["Effect"] == "Allow":
                for action in listed(statement["Action"]):
                    yield Grant(role, short, self.arn, index, action, tuple(listed(statement["Resource"])))

    def without(self, grant: Grant) -> Document:
        """The document with one action of one statement taken away; the statement goes with its last action.

        IAM takes no document without a statement: the last of all denies what it allowed.
        """
        changed = copy.deepcopy(self.document)
        left = statements(changed)
        actions = [action for action in listed(left[grant.statement]["Action"]) if action != grant.action]
        if actions:
            left[grant.statement]["Action"] = actions
        elif len(left) == 1:
            left[grant.statement]["Effect"] = "Deny"
        else:
            del left[grant.statement]
        changed["Statement"] = left
        return changed


@dataclass(frozen=True)
class Role:
    """A deployed role with its policies."""

    name: str
    short: str
    policies: tuple[Policy, ...]

    @property
    def grants(self) -> tuple[Grant, ...]:
        """Everything it may do."""
        return tuple(grant for policy in self.policies for grant in policy.grants(self.name, self.short))


def listed(value: str | list[str]) -> list[str]:
    """A policy element that may be one text or several."""
    return [value] if isinstance(value, str) else list(value)


def statements(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The statements of a policy document, of which there may be one without a list."""
    found = document["Statement"]
    return [found] if isinstance(found, dict) else list(found)


def short_name(role: str, suffix: str) -> str:
    """A role's name without the environment's suffix, as it is in every environment."""
    return role.removesuffix(f"-{suffix}").replace(f"-{suffix}-", "-")


def deployed_roles(account: Account, suffix: str) -> tuple[Role, ...]:
    """Every role of the parent stack and those below it; NotOwnPolicies for inline or AWS-managed ones."""
    iam = account.client("iam")
    formation = account.client("cloudformation")
    return tuple(_role(iam, name, suffix) for name in sorted(_role_names(formation, stack_name(suffix))))


def _role_names(formation: Any, stack: str) -> Iterator[str]:
    for page in formation.get_paginator("list_stack_resources").paginate(StackName=stack):
        for resource in page["StackResourceSummaries"]:
            if resource["ResourceType"] == "AWS::CloudFormation::Stack":
                yield from _role_names(formation, resource["PhysicalResourceId"])
            elif resource["ResourceType"] == "AWS::IAM::Role":
                yield resource["PhysicalResourceId"]


def _role(iam: Any, name: str, suffix: str) -> Role:
    if inline := iam.list_role_policies(RoleName=name)["PolicyNames"]:
        raise NotOwnPolicies(f"The role {name} has inline policies ({', '.join(inline)}); use stacks.permissions.")
    arns = [each["PolicyArn"] for each in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]]
    if foreign := [arn for arn in arns if arn.startswith("arn:aws:iam::aws:")]:
        raise NotOwnPolicies(f"The role {name} has policies of AWS ({', '.join(foreign)}); use stacks.permissions.")
    return Role(name, short_name(name, suffix), tuple(_policy(iam, arn) for arn in arns))


def _policy(iam: Any, arn: str) -> Policy:
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    found = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]
    return Policy(arn, dict(found["Document"]))
