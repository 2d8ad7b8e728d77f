from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from ministack.core.responses import request_scope
from ministack.services import cloudwatch_logs, rds

from local_cloud import database_log
from local_cloud.database_log import DatabaseLogs
from local_cloud.server import LocalCloudOptions
from tests.unit.local_cloud.conftest import Harness, eventually

ACCOUNT, REGION = "210987654321", "eu-central-2"
GROUP = "/aws/rds/instance/one/postgresql"


@pytest.fixture
def logs(harness: Harness, tmp_path: Path) -> Iterator[DatabaseLogs]:
    options = LocalCloudOptions(tmp_path, "127.0.0.1", 4566, ACCOUNT, REGION, "10.60.0.10")
    with request_scope(ACCOUNT, REGION):
        rds._instances["one"] = {"EnabledCloudwatchLogsExports": ["postgresql"]}
        cloudwatch_logs._create_log_group({"logGroupName": GROUP})
        try:
            yield DatabaseLogs(harness.fleet, options)
        finally:
            rds._instances.clear()
            cloudwatch_logs._log_groups.clear()


def lines(group: str = GROUP) -> list[str]:
    streams = cloudwatch_logs._log_groups[group]["streams"]
    assert set(streams) <= {"one.0"}
    return [event["message"] for stream in streams.values() for event in stream["events"]]


def test_what_the_server_logs_is_exported_once(logs: DatabaseLogs, harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    with pytest.raises(psycopg.OperationalError):
        harness.connect("one", password="superseded")

    def refusals() -> int:
        logs.export()
        return sum('password authentication failed for user "citizens_admin"' in line for line in lines())

    eventually(lambda: refusals() == 1)
    logs.export()
    assert refusals() == 1
    assert not any("superseded" in line for line in lines())


def test_after_a_failover_the_log_of_the_new_server_is_exported(logs: DatabaseLogs, harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", multi_az=True))
    logs.export()
    harness.fleet.reboot("one", force_failover=True)
    harness.connect_when_possible("one").close()
    with pytest.raises(psycopg.OperationalError):
        harness.connect("one", password="superseded")

    def exported() -> bool:
        logs.export()
        return any("password authentication failed" in line for line in lines())

    eventually(exported)


def test_nothing_is_exported_unless_the_instance_says_so_and_the_group_is_there(
    logs: DatabaseLogs, harness: Harness
) -> None:
    harness.fleet.create(harness.spec("one"))
    rds._instances["one"]["EnabledCloudwatchLogsExports"] = ["upgrade"]
    logs.export()
    assert lines() == []
    rds._instances["one"]["EnabledCloudwatchLogsExports"] = ["postgresql"]
    cloudwatch_logs._delete_log_group({"logGroupName": GROUP})
    logs.export()
    assert GROUP not in cloudwatch_logs._log_groups


def test_half_a_line_waits_for_its_end(logs: DatabaseLogs, tmp_path: Path) -> None:
    log = tmp_path / "postgresql.log"
    log.write_text("one\ntw")
    assert logs._new_lines(log) == ["one"]
    assert logs._new_lines(log) == []
    log.write_text("one\ntwo\n\n")
    assert logs._new_lines(log) == ["two"]
    assert logs._new_lines(tmp_path / "nowhere") == []


def test_of_very_many_lines_the_older_half_is_dropped(
    logs: DatabaseLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_log, "KEPT_EVENTS", 10)
    log = tmp_path / "postgresql.log"
    for number in range(11):
        with log.open("a") as file:
            file.write(f"line {number}\n")
        logs._deliver("one", log)
    assert lines() == [f"line {number}" for number in range(5, 11)]
    assert {record["@message"] for record in cloudwatch_logs._log_records.values()} >= {"line 10"}
    assert "line 0" not in {record["@message"] for record in cloudwatch_logs._log_records.values()}
