"""The agency's secret: reading it, changing one field of it, and what RDS accepts in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from recovery.connection import Credentials
from recovery.members import Endpoint

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CURRENT = "AWSCURRENT"
PENDING = "AWSPENDING"
PREVIOUS = "AWSPREVIOUS"
NEXT = "CITIZENSNEXT"
"""A version that is about to become AWSCURRENT."""
PASSWORD_LENGTH = (8, 128)
USERNAME_LENGTH = (1, 63)
RESERVED_USERNAMES = frozenset(
    {"rdsadmin", "rdsrepladmin", "rds_superuser", "rds_replication", "rdsproxyadmin", "public"}
)


class SecretUnusable(Exception):
    """The secret's value is not what the functions need."""


class SecretContested(Exception):
    """Somebody else changed the secret at the same time."""


class SecretMissing(Exception):
    """There is no such secret, or no version of it with that label."""


@dataclass(frozen=True)
class Secret:
    """A version of the secret; `fields` holds everything in it, known or not."""

    fields: Mapping[str, Any] = field(repr=False)
    version: str = ""

    @property
    def credentials(self) -> Credentials:
        """User name and password."""
        return Credentials(str(self.fields["username"]), str(self.fields["password"]))

    @property
    def endpoint(self) -> Endpoint:
        """Host and port; SecretUnusable before the attachment has written them."""
        if not self.fields.get("host"):
            raise SecretUnusable(
                "The secret holds no host: it is attached to no database yet; deploy the database, then try again."
            )
        return Endpoint(str(self.fields["host"]), int(self.fields.get("port", 5432)))

    def pointing_at(self, endpoint: Endpoint) -> Secret:
        """The same secret with another host and port."""
        return replace(self, fields={**self.fields, "host": endpoint.host, "port": endpoint.port})

    def with_password(self, password: str) -> Secret:
        """The same secret with another password."""
        return self.with_field("password", password)

    def with_field(self, name: str, value: object) -> Secret:
        """The same secret with one field changed or added."""
        return replace(self, fields={**self.fields, name: value})

    def text(self) -> str:
        """The value as it is stored: JSON, fields in their order."""
        return json.dumps(self.fields)


def parse(value: str, version: str = "") -> Secret:
    """A secret from its value; SecretUnusable names every problem that keeps the functions from signing in."""
    problems = check(value, rds_rules=False)
    if problems:
        raise SecretUnusable(" ".join(problems))
    return Secret(json.loads(value), version)


def read(client: SecretsManagerClient, secret_id: str, stage: str = CURRENT) -> Secret:
    """The version with that label. SecretMissing or SecretUnusable otherwise."""
    try:
        answer = client.get_secret_value(SecretId=secret_id, VersionStage=stage)
    except ClientError as error:
        raise named(error, secret_id, stage) or error from error
    return parse(answer.get("SecretString", ""), answer["VersionId"])


def password_age(client: SecretsManagerClient, secret_id: str, at: datetime) -> timedelta:
    """How old the password is at that time: since the last rotation that ended, or since the secret was made when there
    was none. The version's own date would not do, because a cut-over makes a new version with the same password.
    """
    try:
        described = client.describe_secret(SecretId=secret_id)
    except ClientError as error:
        raise named(error, secret_id, CURRENT) or error from error
    return at - (described.get("LastRotatedDate") or described["CreatedDate"])


def named(error: ClientError, secret_id: str, stage: str) -> Exception | None:
    """What Secrets Manager's refusal to give a value means, in a sentence; None for an unknown one."""
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if code == "ResourceNotFoundException":
        return SecretMissing(f"The secret {secret_id} with label {stage} was not found; check its name or restore it.")
    if code == "InvalidRequestException" and "delet" in message:
        return SecretMissing(f"The secret {secret_id} is marked for deletion; restore it, then try again.")
    if code == "DecryptionFailure" or "KMS" in message:
        return SecretUnusable(
            f"The secret {secret_id} cannot be decrypted ({message}); enable its key and allow its use, then try again."
        )
    return None


def candidates(client: SecretsManagerClient, secret_id: str) -> list[Secret]:
    """The versions whose password a server may have: AWSCURRENT, AWSPENDING (set by a rotation that was cut short) and
    AWSPREVIOUS (a finished rotation that had not replicated).

    AWSPENDING is read before AWSCURRENT: a rotation that finishes in between is then seen once at least.
    """
    pending = _if_there(client, secret_id, PENDING)
    found = [read(client, secret_id), pending, _if_there(client, secret_id, PREVIOUS)]
    return [version for version in found if version is not None]


def _if_there(client: SecretsManagerClient, secret_id: str, stage: str) -> Secret | None:
    try:
        return read(client, secret_id, stage)
    except (SecretMissing, SecretUnusable):
        return None


def replace_current(client: SecretsManagerClient, secret_id: str, current: Secret, wanted: Secret, token: str) -> None:
    """Make `wanted` AWSCURRENT if that is still `current`, else SecretContested. `token` is the new version's id; a
    repeat with it is harmless."""
    try:
        client.put_secret_value(
            SecretId=secret_id, SecretString=wanted.text(), ClientRequestToken=token, VersionStages=[NEXT]
        )
        client.update_secret_version_stage(
            SecretId=secret_id, VersionStage=CURRENT, MoveToVersionId=token, RemoveFromVersionId=current.version
        )
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("ResourceExistsException", "InvalidParameterException"):
            raise
        raise SecretContested(
            f"The secret {secret_id} was changed by somebody else at the same time; repeat."
        ) from error
    # A label that stays behind names a version that is AWSCURRENT anyway.
    with contextlib.suppress(ClientError):
        client.update_secret_version_stage(SecretId=secret_id, VersionStage=NEXT, RemoveFromVersionId=token)


def check(value: str, *, rds_rules: bool = True) -> list[str]:
    """What is wrong with a secret's value: one clear sentence per problem, none when a deploy may use it.

    With `rds_rules` also what RDS would refuse for a master user (password: 8-128 printable ASCII characters without
    `/ " @` and space; user name: a letter, then letters, digits and underscores, at most 63, not reserved).
    """
    try:
        fields = json.loads(value)
    except ValueError:
        return ["The secret's value is not JSON; store an object with username and password."]
    if not isinstance(fields, dict):
        return ["The secret's value is JSON but not an object; store an object with username and password."]
    problems = []
    for name in ("username", "password"):
        if name not in fields:
            problems.append(f"The secret lacks the field {name}; add it.")
        elif not isinstance(fields[name], str) or not fields[name]:
            problems.append(f"The secret's field {name} is not a text with at least one character; correct it.")
    if problems or not rds_rules:
        return problems
    return _username_problems(fields["username"]) + _password_problems(fields["password"])


def _username_problems(username: str) -> list[str]:
    problems = []
    if len(username) > USERNAME_LENGTH[1]:
        problems.append(
            f"The secret's username has {len(username)} characters, but RDS takes at most {USERNAME_LENGTH[1]}."
        )
    if not (username[0].isascii() and username[0].isalpha()):
        problems.append("The secret's username must begin with a letter.")
    if not all(letter.isascii() and (letter.isalnum() or letter == "_") for letter in username):
        problems.append("The secret's username may hold only letters, digits and underscores.")
    if username.lower() in RESERVED_USERNAMES or username.lower().startswith("pg_"):
        problems.append(f"The secret's username {username} is reserved by RDS or PostgreSQL; choose another.")
    return problems


def _password_problems(password: str) -> list[str]:
    problems = []
    least, most = PASSWORD_LENGTH
    if not least <= len(password) <= most:
        problems.append(f"The secret's password has {len(password)} characters, but RDS takes {least} to {most}.")
    for letter, name in {"/": "a slash", '"': "a double quote", "@": "an at sign", " ": "a space"}.items():
        if letter in password:
            problems.append(f"The secret's password holds {name}, which RDS refuses.")
    if not all(32 <= ord(letter) < 127 for letter in password):
        problems.append("The secret's password holds a character that is not printable ASCII, which RDS refuses.")
    return problems
