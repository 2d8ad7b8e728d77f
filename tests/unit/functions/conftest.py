"""The functions run as deployed: with their environment, real members, and moto's AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from functions import clients
from recovery import roles
from recovery.table import RecoveryTable
from tests.unit.recovery.conftest import (
    MASTER,
    PASSWORD,
    PRIMARY,
    STANDBY,
    Pair,
    aws,
    dynamodb,
    members,
    pair,
    secrets_manager,
    table,
    token,
)

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

__all__ = ["aws", "dynamodb", "members", "pair", "secrets_manager", "table", "token"]


@dataclass
class Context:
    """Lambda's context, as far as the functions look at it."""

    seconds: float = 90.0

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@pytest.fixture
def deployed(
    members: Pair,
    table: RecoveryTable,
    secrets_manager: SecretsManagerClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Pair]:
    states = boto3.client("stepfunctions")
    machine = states.create_state_machine(
        name="citizens-failover-test",
        definition=json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}),
        roleArn="arn:aws:iam::123456789012:role/failover",
    )["stateMachineArn"]
    secrets_manager.create_secret(
        Name="citizens/database",
        SecretString=json.dumps(
            {
                "username": MASTER,
                "password": PASSWORD,
                "host": members.primary.host,
                "port": members.primary.port,
                "dbname": "citizens",
            }
        ),
    )
    described = {
        name: {"host": member.endpoint.host, "port": member.endpoint.port} for name, member in members.members.items()
    }
    for name, value in {
        "SUFFIX": "test",
        "RECOVERY_TABLE": "recovery",
        "SECRET_ID": "citizens/database",
        "MEMBERS": json.dumps(described),
        "DATABASE": "citizens",
        "METRICS_NAMESPACE": "CitizensRecovery",
        "PGSSLROOTCERT": str(members.bundle),
        "STATE_MACHINE_ARN": machine,
        "SWITCHOVER_MACHINE_ARN": machine.replace("failover", "switchover"),
        "WITNESS": "a",
        "DATABASE_USER": "citizens_witness",
        "PROBE_INTERVAL_SECONDS": "0.2",
        "PROBE_TIMEOUT_SECONDS": "2",
        "LOG_PATH": str(tmp_path / "transaction-log"),
    }.items():
        monkeypatch.setenv(name, value)
    clients._client.cache_clear()
    roles.create(table, PRIMARY, STANDBY, 1_800_000_000.0)
    yield members
    clients._client.cache_clear()
