from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ConnectTimeoutError

from functions import (
    arbiter,
    archive,
    clients,
    cutover,
    environment,
    open_log,
    probe,
    roll_forward,
    rotation,
    verify,
    witness,
)
from functions.environment import EnvironmentIncomplete
from recovery import observation, override, pause, roles, secret
from recovery.clock import iso
from recovery.incident import take_lease
from recovery.table import RecoveryTable
from recovery.transaction_log import segment
from recovery.transaction_log.path import branch
from recovery.transaction_log.source import NotPrepared
from recovery.verification import VerificationFailed
from tests.unit.functions.conftest import Context
from tests.unit.recovery.conftest import PASSWORD, PRIMARY, STANDBY, Pair

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


@pytest.fixture
def as_user(deployed: Pair, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The function that is called next has this database user."""

    def become(user: str) -> None:
        monkeypatch.setenv("DATABASE_USER", user)

    return become


def test_the_witness_probes_and_says_how_it_went(deployed: Pair, table: RecoveryTable) -> None:
    result = witness.handler({}, Context(seconds=5))
    assert (result["probes"], result["failures"], result["troubles"]) == (1, 0, {})
    seen = observation.read(table, "a")
    assert seen is not None
    assert seen.primary.reachable
    assert witness.handler({}, Context(seconds=5))["probes"] == 1


def test_the_arbiter_decides_from_what_the_witnesses_saw(deployed: Pair, table: RecoveryTable) -> None:
    for _ in range(5):  # a busy machine may not answer a probe in time
        witness.handler({}, Context(seconds=5))
        seen = observation.read(table, "a")
        if seen is not None and seen.primary.reachable:
            break
    event = {"incident": "20270115T080000Z-abcd", "epoch": 1, "started_at": iso(time.time())}
    assert "nobody holds it" in arbiter.handler(event, Context())["reason"]
    lease = take_lease(table, 1, "a", time.time())
    assert lease is not None
    event["incident"] = lease.incident
    decision = arbiter.handler(event, Context())
    assert "takes writes from every fresh witness" in decision["reason"]
    assert (decision["action"], decision["primary"], decision["standby"]) == ("stand_by", PRIMARY, STANDBY)
    assert decision["primary_status"] == "absent"
    json.dumps(decision)
    assert arbiter.handler({**event, "epoch": 7, "forced": True}, Context())["inputs"]["forced"] is True


def test_the_arbiter_reads_the_pause_and_what_an_operator_accepts(deployed: Pair, table: RecoveryTable) -> None:
    now = time.time()
    event = {"incident": "20270115T080000Z-abcd", "epoch": 1, "started_at": iso(now)}
    roles.create(table, PRIMARY, STANDBY, now)
    pause.begin(table, "restore test", 600, "duty officer", now)
    decision = arbiter.handler({**event, "incident": ""}, Context())
    assert decision["action"] == "refuse"
    assert decision["inputs"]["paused"]["reason"] == "restore test"
    override.order(table, ["lag"], "nothing else is left", "duty officer", 600, now)
    decision = arbiter.handler({**event, "incident": ""}, Context())
    assert "RDS has lost both" in decision["reason"], "the pause is overruled, and neither member is there"
    assert decision["override"] == {"by": "duty officer", "reason": "nothing else is left", "accepts": ["lag"]}
    brought = {"by": "chief", "reason": "because", "accepts": ["fence"]}
    assert arbiter.handler({**event, "incident": "", "override": brought}, Context())["override"] == brought


def test_the_probe_looks_at_one_member(deployed: Pair, as_user: Callable[[str], None]) -> None:
    as_user("citizens_probe")
    look = probe.handler({"member": STANDBY}, Context())
    assert (look["reachable"], look["in_recovery"], look["error"]) == (True, True, None)
    with pytest.raises(EnvironmentIncomplete, match="citizens-9-test is not a member"):
        probe.handler({"member": "citizens-9-test"}, Context())


def test_log_cut_over_and_verification_follow_one_another_and_may_be_repeated(
    deployed: Pair, table: RecoveryTable, secrets_manager: SecretsManagerClient, as_user: Callable[[str], None]
) -> None:
    with deployed.open() as session:
        session.run("DROP EVENT TRIGGER recovery_give_identity; DROP PUBLICATION citizens_log", 5)
    as_user("citizens_log")
    with pytest.raises(NotPrepared, match="citizens_log or an event trigger is missing"):
        open_log.handler({"epoch": 1, "member": PRIMARY}, Context())
    prepared = rotation.handler({"Step": "prepareDatabase", "member": PRIMARY}, Context())
    assert prepared == {"host": deployed.primary.host}
    opened = open_log.handler({"epoch": 1, "member": PRIMARY}, Context())
    assert opened["slot"] == "citizens_log"
    assert open_log.handler({"epoch": 1, "member": PRIMARY}, Context()) == opened
    order = {"incident": "i", "epoch": 1, "primary": PRIMARY, "standby": STANDBY}
    for _ in range(2):
        assert rotation.handler({"Step": "pointSecret", **order}, Context()) == {"host": deployed.primary.host}
        assert cutover.handler(order, Context()) == {"epoch": 2, "host": deployed.primary.host}
    as_user("citizens_verify")
    verified = verify.handler({}, Context())
    assert verified["verified"] is True
    assert verified["member"] == PRIMARY
    roles.advance(table, 2, STANDBY, PRIMARY, 1_800_000_000.0)
    with pytest.raises(VerificationFailed, match="read-only"):
        verify.handler({}, Context())


def test_the_archive_keeps_what_is_written_under_its_epoch(
    deployed: Pair, tmp_path: Path, table: RecoveryTable, as_user: Callable[[str], None]
) -> None:
    as_user("citizens_log")
    assert archive.handler({"seconds": 0}, Context())["segments"] == 0
    with deployed.open() as session:
        session.run("CREATE TABLE citizens (n int); INSERT INTO citizens VALUES (1)", 5)
        session.run("INSERT INTO citizens VALUES (2)", 5)
    result = archive.handler({"seconds": 0}, Context())
    _, kept = segment.segments(tmp_path / "transaction-log" / "epoch-1")
    assert segment.transactions(segment.read(kept)) == 2
    again = archive.handler({"seconds": 1.2}, Context())
    assert (again["segments"], again["gaps"], again["last_lsn"]) == (0, 0, result["last_lsn"])


def test_a_member_is_rolled_forward_from_where_it_stands_in_the_log(
    deployed: Pair, tmp_path: Path, as_user: Callable[[str], None]
) -> None:
    event = {"epoch": 1, "member": PRIMARY}
    assert "There is no log" in roll_forward.handler(event, Context())["trouble"]
    as_user("citizens_log")
    archive.handler({"seconds": 0}, Context())
    with deployed.open() as session:
        session.run("CREATE TABLE citizens (n int); INSERT INTO citizens VALUES (1)", 5)
    archive.handler({"seconds": 0}, Context())
    as_user("citizens_roll_forward")
    account = roll_forward.handler(event, Context())
    assert (account["transactions"], account["trouble"], account["target_reached"]) == (0, None, True)
    opened = branch(tmp_path / "transaction-log" / "epoch-2")
    assert opened is not None
    assert str(opened.at) == account["had"] == account["reached"]
    assert roll_forward.handler(event, Context()) == account
    assert roll_forward.handler({**event, "epoch": 0}, Context())["had"] == account["had"]


def test_the_archive_tells_of_a_gap(
    deployed: Pair, monkeypatch: pytest.MonkeyPatch, as_user: Callable[[str], None]
) -> None:
    as_user("citizens_log")
    sent: list[dict[str, Any]] = []

    class CloudWatch:
        def put_metric_data(self, **request: Any) -> None:
            sent.extend(request["MetricData"])

    archive.handler({"seconds": 0}, Context())
    monkeypatch.setattr(clients, "cloudwatch", CloudWatch)
    with deployed.open() as session:
        session.run("SELECT pg_drop_replication_slot('citizens_log')", 5)
        session.run("CREATE TABLE citizens (n int); INSERT INTO citizens VALUES (1)", 5)
    assert archive.handler({"seconds": 0}, Context())["gaps"] == 1
    assert [metric["Value"] for metric in sent if metric["MetricName"] == "LogGaps"] == [1]


def test_metrics_that_cannot_be_sent_do_not_stop_the_archive(
    deployed: Pair,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_user: Callable[[str], None],
) -> None:
    as_user("citizens_log")

    def hang() -> Any:
        raise ConnectTimeoutError(endpoint_url="https://monitoring")

    monkeypatch.setattr(clients, "cloudwatch", hang)
    assert archive.handler({"seconds": 1.2}, Context())["segments"] == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["trouble", "archived"]


def test_secrets_manager_can_rotate(deployed: Pair, secrets_manager: SecretsManagerClient, token: str) -> None:
    for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        rotation.handler({"SecretId": "citizens/database", "ClientRequestToken": token, "Step": step}, Context())
    try:
        after = secret.read(secrets_manager, "citizens/database")
        assert after.version == token
        deployed.open(password=after.credentials.password).close()
    finally:
        deployed.fleet.modify(PRIMARY, master_password=PASSWORD)


def test_the_schedule_learns_how_old_the_password_is(
    deployed: Pair, secrets_manager: SecretsManagerClient, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def days(at: datetime) -> float:
        capsys.readouterr()
        rotation.handler({"Step": "prepareDatabase", "time": at.isoformat()}, Context())
        (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert line["event"] == "password age"
        return float(line["days"])

    now = datetime.now(UTC)
    assert abs(days(now)) < 0.01
    assert days(now + timedelta(days=31.5)) == pytest.approx(31.5, abs=0.01)
    # A cut-over makes a new version with the same password, which makes it no younger.
    made = secrets_manager.describe_secret(SecretId="citizens/database")["CreatedDate"]
    value = secrets_manager.get_secret_value(SecretId="citizens/database")["SecretString"]
    secrets_manager.put_secret_value(SecretId="citizens/database", SecretString=value, ClientRequestToken=token)
    assert days(made + timedelta(days=2)) == 2


def test_a_step_of_a_rotation_that_failed_is_told_apart_from_other_work_that_did(
    deployed: Pair, secrets_manager: SecretsManagerClient, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets_manager.delete_secret(SecretId="citizens/database", ForceDeleteWithoutRecovery=True)
    rotating = {"SecretId": "citizens/database", "ClientRequestToken": token, "Step": "createSecret"}
    for event, told in ((rotating, "rotation step failed"), ({"Step": "prepareDatabase"}, "step failed")):
        capsys.readouterr()
        with pytest.raises(secret.SecretMissing):
            rotation.handler(event, Context())
        (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert line["event"] == told


def test_a_missing_or_malformed_variable_is_named(deployed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTO_SECONDS", "soon")
    with pytest.raises(EnvironmentIncomplete, match="RTO_SECONDS is 'soon'"):
        environment.objectives()
    monkeypatch.setenv("RTO_SECONDS", "600")
    assert environment.objectives().rto_seconds == 600
    monkeypatch.delenv("SUFFIX")
    with pytest.raises(EnvironmentIncomplete, match="SUFFIX is not set"):
        environment.environment()


def test_without_libpqs_variable_the_bundle_of_the_region_is_used(
    deployed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLROOTCERT")
    settings = environment.environment()
    assert settings.ca_file.endswith("functions/rds-ca-eu-central-2.pem")
    assert len(clients.database(settings).tls.get_ca_certs()) >= 1


def test_roles_are_needed_by_the_archive(deployed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "read", lambda *_: None)
    with pytest.raises(roles.RolesUnknown):
        archive.handler({}, Context())


def test_with_the_log_turned_off_the_preparation_takes_it_away(
    deployed: Pair, monkeypatch: pytest.MonkeyPatch, as_user: Callable[[str], None]
) -> None:
    as_user("citizens_log")
    archive.handler({"seconds": 0}, Context())
    monkeypatch.setenv("TRANSACTION_LOG", "off")
    assert rotation.handler({"Step": "prepareDatabase"}, Context()) == {"host": deployed.primary.host}
    with deployed.open() as session:
        assert session.run("SELECT 1 FROM pg_publication", 5) == []
        assert session.run("SELECT 1 FROM pg_replication_slots WHERE slot_type = 'logical'", 5) == []
    monkeypatch.setenv("TRANSACTION_LOG", "perhaps")
    with pytest.raises(EnvironmentIncomplete, match="TRANSACTION_LOG is 'perhaps'"):
        rotation.handler({"Step": "prepareDatabase"}, Context())
    monkeypatch.setenv("TRANSACTION_LOG", "on")
    rotation.handler({"Step": "prepareDatabase"}, Context())
    assert archive.handler({"seconds": 0}, Context())["gaps"] in (0, 1)
