"""A deploy is refused before anything is deployed when the agency's secret cannot serve."""

from __future__ import annotations

import os
from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from deployment.account import Account
from deployment.precondition import check_secret
from deployment.problem import Problem


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-2")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


def check(value: str | bytes | None) -> None:
    client = boto3.client("secretsmanager", region_name="eu-central-2")
    if isinstance(value, bytes):
        client.create_secret(Name="citizens/database", SecretBinary=value)
    elif value is not None:
        client.create_secret(Name="citizens/database", SecretString=value)
    check_secret(Account({k: v for k, v in os.environ.items() if k != "LOCAL_CLOUD_URL"}), "citizens/database", "dev")


def test_a_well_formed_secret_passes() -> None:
    check('{"username": "citizens_admin", "password": "Long-Enough-1"}')


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "does not exist"),
        (b"binary", "is binary"),
        ("not json", "JSON"),
        ('{"password": "Long-Enough-1"}', "username"),
        ('{"username": "citizens_admin"}', "password"),
        ('{"username": "citizens_admin", "password": "with/slash"}', "/"),
        ('{"username": "citizens_admin", "password": "short"}', "8"),
    ],
)
def test_a_secret_that_cannot_serve_is_refused_in_one_sentence(value: str | bytes | None, expected: str) -> None:
    with pytest.raises(Problem, match=expected) as refusal:
        check(value)
    assert "Traceback" not in str(refusal.value)
