"""The function that measures how ready the system is: what it asks, what it sends, and when it fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from functions import clients, posture
from functions.environment import EnvironmentIncomplete
from recovery import incident, observation, roles
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.table import RecoveryTable
from tests.unit.functions.conftest import Context

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient

MEMBERS = ("citizens-1-test", "citizens-2-test")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def cloudwatch(table: RecoveryTable, monkeypatch: pytest.MonkeyPatch) -> CloudWatchClient:
    """Two members as RDS has them, the roles, what both witnesses saw a second ago, and moto's CloudWatch."""
    rds = boto3.client("rds")
    rds.create_db_instance(
        DBInstanceIdentifier=MEMBERS[0],
        Engine="postgres",
        DBInstanceClass="db.t4g.medium",
        MasterUsername="agency",
        MasterUserPassword="not-a-secret",
        AllocatedStorage=20,
        AvailabilityZone="eu-central-2a",
    )
    rds.create_db_instance_read_replica(
        DBInstanceIdentifier=MEMBERS[1], SourceDBInstanceIdentifier=MEMBERS[0], AvailabilityZone="eu-central-2c"
    )
    described = {name: {"host": "127.0.0.1", "port": 5432} for name in MEMBERS}
    for name, value in {
        "SUFFIX": "test",
        "RECOVERY_TABLE": "recovery",
        "SECRET_ID": "citizens/database",
        "MEMBERS": json.dumps(described),
        "DATABASE": "citizens",
        "METRICS_NAMESPACE": "CitizensRecovery",
        "PROMISED_RTO_SECONDS": "720",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    clients._client.cache_clear()
    roles.create(table, *MEMBERS, time.time())
    for witness in ("a", "c"):
        seen = Observation(witness, time.time() - 1, 1, PrimaryView(True), StandbyView(True, None, 0.5), sequence=1)
        observation.put(table, seen)
    return boto3.client("cloudwatch")


def newest(client: CloudWatchClient, name: str, **more: str) -> float:
    now = datetime.now(UTC)
    found = client.get_metric_statistics(
        Namespace="CitizensRecovery",
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in {"Suffix": "test", **more}.items()],
        StartTime=now - timedelta(minutes=5),
        EndTime=now + timedelta(minutes=5),
        Period=60,
        Statistics=["Maximum"],
    )["Datapoints"]
    return max(found, key=lambda point: point["Timestamp"])["Maximum"]


def test_what_is_measured_reaches_cloudwatch_under_the_environments_suffix(cloudwatch: CloudWatchClient) -> None:
    result = posture.handler({}, Context())
    assert result["would"] == "promote"
    assert newest(cloudwatch, "TakeoverPossible") == 1
    assert newest(cloudwatch, "PredictedRtoSeconds") == 720
    assert newest(cloudwatch, "PredictedRpoSeconds") == 0.5
    assert newest(cloudwatch, "SameZone") == 0
    assert newest(cloudwatch, "MemberRole", Member=MEMBERS[0]) == 2
    assert newest(cloudwatch, "MemberRole", Member=MEMBERS[1]) == 1
    assert newest(cloudwatch, "AuthorityDays") > 365, "the bundle that is shipped"


def test_a_standby_that_somebody_deleted_is_none(cloudwatch: CloudWatchClient) -> None:
    boto3.client("rds").delete_db_instance(DBInstanceIdentifier=MEMBERS[1], SkipFinalSnapshot=True)
    result = posture.handler({}, Context())
    assert result["Protected"] == 0
    assert newest(cloudwatch, "Protected") == 0


def test_the_lease_of_an_incident_is_an_incident(cloudwatch: CloudWatchClient, table: RecoveryTable) -> None:
    assert posture.handler({}, Context())["IncidentRunning"] == 0
    assert incident.take_lease(table, 1, "a", time.time()) is not None
    assert posture.handler({}, Context())["IncidentRunning"] == 1


def test_asked_twice_it_says_the_same(cloudwatch: CloudWatchClient) -> None:
    first, second = posture.handler({}, Context()), posture.handler({}, Context())
    assert {name: round(value, 1) for name, value in first.items() if isinstance(value, float)} == {
        name: round(value, 1) for name, value in second.items() if isinstance(value, float)
    }


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (lambda patch: patch.setenv("RECOVERY_TABLE", "nowhere"), ClientError),
        (lambda patch: patch.setenv("PROMISED_RTO_SECONDS", "soon"), EnvironmentIncomplete),
        (lambda patch: patch.delenv("PROMISED_RTO_SECONDS"), EnvironmentIncomplete),
        (lambda patch: patch.setattr(clients, "cloudwatch", lambda: Refusing()), ClientError),
    ],
)
def test_what_it_cannot_do_is_an_error_of_the_function_and_not_silence(
    cloudwatch: CloudWatchClient,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[pytest.MonkeyPatch], None],
    error: type[Exception],
) -> None:
    broken(monkeypatch)
    with pytest.raises(error):
        posture.handler({}, Context())


def test_without_a_role_record_there_is_nothing_to_measure(cloudwatch: CloudWatchClient, table: RecoveryTable) -> None:
    table.delete_if("roles", "epoch = :epoch", {":epoch": 1})
    with pytest.raises(roles.RolesUnknown, match="wait until a witness has seen both members"):
        posture.handler({}, Context())


class Refusing:
    def put_metric_data(self, **_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutMetricData")


def authority(days: float) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"ends in {days:g} days")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def test_of_a_bundle_the_authority_that_ends_first_counts(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(authority(4000) + authority(100.5))
    ends = posture.first_end(str(bundle))
    assert ends is not None
    assert 100 < (ends - time.time()) / 86_400 < 101


def test_the_shipped_bundle_outlives_every_deployment_made_today() -> None:
    ends = posture.first_end(str(ROOT / "functions" / "rds-ca-eu-central-2.pem"))
    assert ends is not None
    assert (ends - time.time()) / 86_400 > 3650


def test_a_stale_observation_is_not_believed(cloudwatch: CloudWatchClient, table: RecoveryTable) -> None:
    for witness in ("a", "c"):
        seen = observation.read(table, witness)
        assert seen is not None
        observation.put(table, replace(seen, at=time.time() - 600))
    result = posture.handler({}, Context())
    assert result["TakeoverPossible"] == 0
    assert "PredictedRtoSeconds" not in result
