"""What a rotation is given may be bad: each time one sentence in the function's log, and AWSCURRENT keeps working."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from functions import clients, rotation
from recovery import secret
from tests.unit.functions.conftest import Context
from tests.unit.recovery.conftest import MASTER, PASSWORD, PRIMARY, Pair

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

SECRET = "citizens/database"


@pytest.fixture
def sentence(deployed: Pair, token: str, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """The one sentence that a failing step leaves in the log."""

    def run(step: str) -> str:
        capsys.readouterr()
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is, Secrets Manager must learn of it
            rotation.handler({"SecretId": SECRET, "ClientRequestToken": token, "Step": step}, Context())
        (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert (line["event"], line["step"]) == ("rotation step failed", step)
        assert PASSWORD not in json.dumps(line)
        return str(line["reason"])

    return run


def put(client: SecretsManagerClient, **changes: object) -> None:
    fields = {**secret.read(client, SECRET).fields, **changes}
    client.put_secret_value(
        SecretId=SECRET, SecretString=json.dumps({name: value for name, value in fields.items() if value is not None})
    )


def test_a_secret_that_is_marked_for_deletion_or_gone(
    deployed: Pair, secrets_manager: SecretsManagerClient, sentence: Callable[[str], str]
) -> None:
    secrets_manager.delete_secret(SecretId=SECRET, RecoveryWindowInDays=7)
    assert "is marked for deletion; restore it" in sentence("createSecret")
    secrets_manager.restore_secret(SecretId=SECRET)
    secrets_manager.delete_secret(SecretId=SECRET, ForceDeleteWithoutRecovery=True)
    assert "was not found; restore it" in sentence("createSecret")
    deployed.open().close()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("password", "is not JSON"),
        ('["agency"]', "not an object"),
        ('{"username": "agency"}', "lacks the field password"),
        ('{"password": "Correct-Horse-18"}', "lacks the field username"),
    ],
)
def test_a_value_that_is_no_secret(
    deployed: Pair,
    secrets_manager: SecretsManagerClient,
    sentence: Callable[[str], str],
    value: str,
    expected: str,
) -> None:
    secrets_manager.put_secret_value(SecretId=SECRET, SecretString=value)
    for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        assert expected in sentence(step)
    deployed.open().close()


def test_a_host_that_is_none_of_the_members(
    deployed: Pair, secrets_manager: SecretsManagerClient, sentence: Callable[[str], str]
) -> None:
    put(secrets_manager, host="elsewhere.example")
    assert "points at elsewhere.example" in sentence("createSecret")
    put(secrets_manager, host=None)
    assert "holds no host" in sentence("createSecret")
    deployed.open().close()


def test_a_user_without_the_right_to_change_the_password(
    deployed: Pair, secrets_manager: SecretsManagerClient, sentence: Callable[[str], str], token: str
) -> None:
    with deployed.open() as session:
        session.run(
            "CREATE ROLE weak LOGIN PASSWORD 'Weak-Password-1'; REVOKE CONNECT ON DATABASE citizens FROM PUBLIC", 5
        )
    try:
        put(secrets_manager, username="weak", password="Weak-Password-1")
        event = {"SecretId": SECRET, "ClientRequestToken": token}
        rotation.handler({**event, "Step": "createSecret"}, Context())
        reason = sentence("setSecret")
        assert "refused setSecret" in reason
        assert "permission denied for database" in reason
        assert secret.read(secrets_manager, SECRET).fields["password"] == "Weak-Password-1"
        with deployed.open() as session:
            session.run("ALTER ROLE weak NOLOGIN", 5)
        assert "is not permitted to log in" in sentence("setSecret")
    finally:
        with deployed.open() as session:
            session.run("GRANT CONNECT ON DATABASE citizens TO PUBLIC; DROP ROLE weak", 5)


def test_a_password_that_rds_would_refuse_is_withdrawn_and_the_next_rotation_begins_anew(
    deployed: Pair, secrets_manager: SecretsManagerClient, sentence: Callable[[str], str], token: str
) -> None:
    current = secret.read(secrets_manager, SECRET)
    secrets_manager.put_secret_value(
        SecretId=SECRET,
        ClientRequestToken=token,
        SecretString=current.with_password("slash/and space").text(),
        VersionStages=["AWSPENDING"],
    )
    reason = sentence("setSecret")
    assert "holds a slash" in reason
    assert "rotate again" in reason
    deployed.open().close()
    another = {"SecretId": SECRET, "ClientRequestToken": "f" * 32}
    try:
        for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
            rotation.handler({**another, "Step": step}, Context())
        deployed.open(password=secret.read(secrets_manager, SECRET).credentials.password).close()
    finally:
        deployed.fleet.modify(PRIMARY, master_password=PASSWORD)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("DecryptionFailure", "Secrets Manager can't decrypt the protected secret text using the provided KMS key."),
        ("AccessDeniedException", "Access to KMS is not allowed"),
    ],
)
def test_a_key_that_cannot_be_used(
    deployed: Pair,
    sentence: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    message: str,
) -> None:
    def refuse(**_: object) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": message}}, "GetSecretValue")

    monkeypatch.setattr(clients.secretsmanager(), "get_secret_value", refuse)
    for step in ("createSecret", "testSecret"):
        assert "cannot be decrypted" in sentence(step)
    deployed.open().close()


def test_a_password_that_the_server_never_had(
    deployed: Pair, secrets_manager: SecretsManagerClient, sentence: Callable[[str], str]
) -> None:
    put(secrets_manager, password="never-on-the-server-1")
    reason = sentence("testSecret")
    assert f'password authentication failed for user "{MASTER}"' in reason
    assert "set the master password" in reason


def test_the_policy_of_the_settings_makes_the_password(
    deployed: Pair, secrets_manager: SecretsManagerClient, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD_LENGTH", "48")
    monkeypatch.setenv("PASSWORD_EXCLUDED", "abcdefghijklmno")
    rotation.handler({"SecretId": SECRET, "ClientRequestToken": token, "Step": "createSecret"}, Context())
    made = secret.read(secrets_manager, SECRET, secret.PENDING).credentials.password
    assert len(made) == 48
    assert not set(made) & set('abcdefghijklmno/"@ ')
