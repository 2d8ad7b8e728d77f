"""What must hold before a deploy, checked before anything is deployed: the agency's secret is there and usable."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

from deployment.account import Account
from deployment.problem import Problem
from recovery import secret


def check_secret(account: Account, name: str, suffix: str) -> None:
    """Raise Problem, one sentence per finding, when the existing secret cannot serve as the database's master
    secret."""
    client = account.client("secretsmanager")
    try:
        described = client.describe_secret(SecretId=name)
        value = client.get_secret_value(SecretId=name)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ResourceNotFoundException":
            raise Problem(
                f"The secret {name} does not exist: it is the agency's and is never created here; "
                'create it with {"username": …, "password": …}, or name another one by SECRET_NAME.'
            ) from None
        raise Problem(
            f"The secret {name} cannot be read ({code}: {error.response['Error'].get('Message', '')})."
        ) from None
    except BotoCoreError as error:
        raise Problem(f"The account cannot be asked for the secret {name}: {error}") from None
    rotation = described.get("RotationLambdaARN", "")
    if described.get("RotationEnabled") and not rotation.endswith(f":citizens-rotation-{suffix}"):
        raise Problem(
            f"The secret {name} is rotated by {rotation.rpartition(':')[2]}, so it belongs to another environment: "
            "each environment needs a secret of its own; name another one by SECRET_NAME."
        )
    text = value.get("SecretString")
    if text is None:
        raise Problem(f"The secret {name} is binary; a JSON object with username and password is expected.")
    findings = secret.check(text)
    if findings:
        raise Problem("\n".join(f"The secret {name}: {finding}" for finding in findings))
