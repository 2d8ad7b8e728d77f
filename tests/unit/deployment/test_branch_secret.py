"""What AWS refuses and the local cloud does not: to make a secret whose namesake is still being deleted."""

from __future__ import annotations

import os

import boto3
import pytest
from moto import mock_aws

from deployment.account import Account
from deployment.branch_secret import is_made_for, provide
from deployment.problem import Problem


def test_a_branch_whose_last_secret_is_being_deleted_is_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-2")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    account = Account({key: value for key, value in os.environ.items() if key != "LOCAL_CLOUD_URL"})
    with mock_aws():
        assert provide(account, "citizens/login/database", "login")
        client = boto3.client("secretsmanager", region_name="eu-central-2")
        client.delete_secret(SecretId="citizens/login/database", RecoveryWindowInDays=7)
        with pytest.raises(Problem, match="is being deleted"):
            provide(account, "citizens/login/database", "login")
        assert is_made_for(account, "citizens/login/database", "login")
