"""The database secret of a branch's environment, and through it the register of such environments.

The agency's secrets are never created or deleted here. The environment of a branch is thrown away with all its data,
so its secret is too: it is made when the branch is first deployed, marked by a tag, and removed after the environment.
Only what carries the mark is ever taken for a branch's, so a sweep cannot reach an environment that somebody keeps.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Collection
from typing import Any

from deployment.account import Account
from deployment.branch import BRANCHES, KEPT, Target, suffix_of
from deployment.local import MASTER_USER
from deployment.problem import Problem

MARK = "citizens:made-for-branch"


def provide(account: Account, name: str, suffix: str) -> bool:
    """Make the secret of a branch's environment with a random password; False when it is there already.

    Raises Problem for the suffix of a kept environment and for a secret that was not made for the branch: somebody
    keeps an environment of that name.
    """
    _refuse_kept(suffix)
    alphabet = string.ascii_letters + string.digits
    value = {"username": MASTER_USER, "password": "".join(secrets.choice(alphabet) for _ in range(32))}
    client = account.client("secretsmanager")
    try:
        client.create_secret(Name=name, SecretString=json.dumps(value), Tags=[{"Key": MARK, "Value": suffix}])
    except (client.exceptions.ResourceExistsException, client.exceptions.InvalidRequestException):
        found = _describe(account, name)
        if not found or "DeletedDate" in found:
            raise Problem(
                f"The secret {name} is being deleted: deploy again when it is gone, in a few minutes if a pipeline "
                "deleted it, else at the end of its recovery window."
            ) from None
        if not _is_marked(found, suffix):
            raise Problem(
                f"The secret {name} was not made for a branch, so somebody keeps the environment {suffix}: "
                "give the branch another name."
            ) from None
        return False
    return True


def is_made_for(account: Account, name: str, suffix: str) -> bool:
    """Whether a secret is there and was made for the branch of this suffix, so that its environment is the branch's.

    Raises Problem for the suffix of a kept environment.
    """
    _refuse_kept(suffix)
    return _is_marked(_describe(account, name), suffix)


def withdraw(account: Account, name: str, suffix: str) -> None:
    """Delete the secret of a branch's destroyed environment for good, if it is one."""
    if is_made_for(account, name, suffix):
        account.client("secretsmanager").delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)


def abandoned(account: Account, branches: Collection[str], default_branch: str) -> tuple[Target, ...]:
    """The environments that were made for branches which are not among `branches` any more, by suffix.

    Raises Problem when the default branch is not among them either: such a list is not that of a repository, and all
    environments would look abandoned.
    """
    if default_branch not in branches:
        raise Problem(
            f"The list of {len(branches)} branches lacks {default_branch}: give the names of all branches, one a line."
        )
    alive = {suffix_of(branch) for branch in branches} | KEPT
    pages = account.client("secretsmanager").get_paginator("list_secrets")
    marked = {
        tag["Value"]
        for page in pages.paginate(Filters=[{"Key": "tag-key", "Values": [MARK]}])
        for secret in page["SecretList"]
        for tag in secret.get("Tags", [])
        if tag["Key"] == MARK
    }
    return tuple(Target(BRANCHES, suffix) for suffix in sorted(marked - alive))


def _refuse_kept(suffix: str) -> None:
    if suffix in KEPT:
        raise Problem(f"The environment {suffix} is kept, and its secret is the agency's: name a branch's environment.")


def _describe(account: Account, name: str) -> dict[str, Any]:
    client = account.client("secretsmanager")
    try:
        return dict(client.describe_secret(SecretId=name))
    except client.exceptions.ResourceNotFoundException:
        return {}


def _is_marked(described: dict[str, Any], suffix: str) -> bool:
    return {"Key": MARK, "Value": suffix} in described.get("Tags", [])
