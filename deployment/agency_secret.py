"""The agency's existing secret: whether it can serve as the database's master secret. Nothing here writes to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from deployment.account import Account
from recovery import secret
from stacks.settings import Settings

# An AWS-managed key cannot be restricted and needs no permission of ours.
MANAGED_KEY = "alias/aws/secretsmanager"


@dataclass(frozen=True)
class Finding:
    """What is wrong with the secret, and what to do about it."""

    found: str
    todo: str


def findings(account: Account, settings: Settings) -> list[Finding]:
    """What is wrong with it; nothing when a deploy may use it.

    Raises ClientError when the account may not be asked.
    """
    name, client = settings.secret_name, account.client("secretsmanager")
    try:
        described = client.describe_secret(SecretId=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        return [
            Finding(
                f"The secret {name} does not exist; it is the agency's and is never created here",
                'create it with {"username": …, "password": …}, or name another one by SECRET_NAME',
            )
        ]
    if described.get("DeletedDate"):
        return [
            Finding(
                f"The secret {name} is scheduled for deletion",
                f"restore it (`aws secretsmanager restore-secret --secret-id {name}`), or name another one",
            )
        ]
    return [
        *_rotated_by_another(described, settings),
        *_key_findings(account, described, settings),
        *_value_findings(client, name),
    ]


def _rotated_by_another(described: Any, settings: Settings) -> list[Finding]:
    rotation = described.get("RotationLambdaARN", "").rpartition(":")[2]
    if not described.get("RotationEnabled") or rotation == f"citizens-rotation-{settings.environment_suffix}":
        return []
    return [
        Finding(
            f"The secret {settings.secret_name} is rotated by {rotation}, so it belongs to another environment",
            "name another one by SECRET_NAME: each environment needs a secret of its own",
        )
    ]


def _key_findings(account: Account, described: Any, settings: Settings) -> list[Finding]:
    """The functions decrypt with the key that the settings name, so it must be the key that the secret has."""
    name, used, named = settings.secret_name, described.get("KmsKeyId") or MANAGED_KEY, settings.secret_key_arn
    kms = account.client("kms")
    if used == MANAGED_KEY:
        if named is None:
            return []
        return [Finding(f"The secret {name} uses {MANAGED_KEY}, not the key {named}", "leave SECRET_KEY_ARN empty")]
    try:
        key = kms.describe_key(KeyId=used)["KeyMetadata"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NotFoundException":
            raise
        return [Finding(f"The key {used} of the secret {name} does not exist", "give the secret a key that does")]
    if key.get("KeyManager") == "AWS":
        managed = Finding(f"The secret {name} uses an AWS-managed key, not {named}", "leave SECRET_KEY_ARN empty")
        return [] if named is None else [managed]
    if named is None:
        encrypted = f"The secret {name} is encrypted with {key['Arn']}, which the functions may not use yet"
        return [Finding(encrypted, "name that key by SECRET_KEY_ARN")]
    if key["Arn"] != named:
        return [
            Finding(f"The secret {name} is encrypted with {key['Arn']}, not with {named}", "correct SECRET_KEY_ARN")
        ]
    if key["KeyState"] != "Enabled":
        return [Finding(f"The key {named} of the secret {name} is {key['KeyState']}", "enable it")]
    return []


def _value_findings(client: Any, name: str) -> list[Finding]:
    try:
        text = client.get_secret_value(SecretId=name).get("SecretString")
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code == "DecryptionFailure" or "KMS" in message:
            todo = "enable its key and allow yourself kms:Decrypt"
            return [Finding(f"The secret {name} cannot be decrypted ({message})", todo)]
        raise
    if text is None:
        return [Finding(f"The secret {name} is binary", "store a JSON object with username and password")]
    return [Finding(finding, f"correct the secret {name}") for finding in secret.check(text)]
