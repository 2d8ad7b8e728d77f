"""The function that looks after the log's files: what it tells, what it removes, and when it removes nothing."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from functions import clients, log_care
from functions.environment import EnvironmentIncomplete
from recovery.transaction_log import retention, segment
from recovery.transaction_log.retention import DAY_SECONDS
from tests.unit.functions.conftest import Context
from tests.unit.recovery.test_retention import committed
from tests.unit.recovery.test_verification_of_the_log import Log

MEMBERS = ("citizens-1-test", "citizens-2-test")


class Rds:
    """Answers for the members that can be restored: identifier → epoch seconds."""

    def __init__(self, restorable: dict[str, float]) -> None:
        self._restorable = restorable

    def describe_db_instances(self, DBInstanceIdentifier: str) -> dict[str, Any]:  # noqa: N803 - boto3's name
        if DBInstanceIdentifier not in self._restorable:
            return {"DBInstances": [{"DBInstanceIdentifier": DBInstanceIdentifier}]}
        at = datetime.fromtimestamp(self._restorable[DBInstanceIdentifier], UTC)
        return {"DBInstances": [{"LatestRestorableTime": at}]}


class CloudWatch:
    """Keeps what it is sent: name → value."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}

    def put_metric_data(self, **request: Any) -> None:
        self.sent |= {metric["MetricName"]: metric["Value"] for metric in request["MetricData"]}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CloudWatch:
    found = CloudWatch()
    monkeypatch.setattr(clients, "cloudwatch", lambda: found)
    described = {name: {"host": "127.0.0.1", "port": 5432} for name in MEMBERS}
    for name, value in {
        "SUFFIX": "test",
        "RECOVERY_TABLE": "recovery",
        "SECRET_ID": "citizens/database",
        "MEMBERS": json.dumps(described),
        "DATABASE": "citizens",
        "METRICS_NAMESPACE": "CitizensRecovery",
        "LOG_PATH": str(tmp_path),
        "LOG_KEPT_DAYS": "35",
    }.items():
        monkeypatch.setenv(name, value)
    restorable(monkeypatch, {MEMBERS[0]: time.time()})
    return found


def restorable(monkeypatch: pytest.MonkeyPatch, times: dict[str, float]) -> None:
    monkeypatch.setattr(clients, "rds", lambda: Rds(times))


def grown(root: Path) -> Log:
    """An opening, a transaction of 50 days ago, one of 36, one of now."""
    made = Log(root)
    made.link(made.header)
    for commit, age in ((100, 50), (110, 36), (120, 0)):
        committed(made, commit, time.time() - age * DAY_SECONDS)
    return made


def test_a_sound_log_is_told_of_and_what_is_old_goes(sent: CloudWatch, tmp_path: Path) -> None:
    made = grown(tmp_path)
    result = log_care.handler({}, Context(seconds=900))
    assert (result["verdict"], result["findings"], result["expired"]) == ("OK", 0, 3)
    assert sent.sent["LogVerdict"] == 0
    assert sent.sent["LogSegmentsExpired"] == 3
    assert sent.sent["LogBytes"] > 0
    assert len(segment.segments(made.folder)) == 1
    again = log_care.handler({}, Context(seconds=900))
    assert (again["verdict"], again["expired"]) == ("OK", 0)
    json.dumps(again)


def test_what_the_newest_backup_needs_stays_and_without_a_backup_everything(
    sent: CloudWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(tmp_path)
    restorable(monkeypatch, {})
    assert log_care.handler({}, Context(seconds=900))["expired"] == 0
    restorable(monkeypatch, {MEMBERS[1]: time.time() - 40 * DAY_SECONDS})
    assert log_care.handler({}, Context(seconds=900))["expired"] == 2


def test_a_hold_and_one_that_cannot_be_read_keep_everything(sent: CloudWatch, tmp_path: Path) -> None:
    grown(tmp_path)
    retention.hold(tmp_path, "court", "case 17", time.time())
    assert log_care.handler({}, Context(seconds=900))["expired"] == 0
    (tmp_path / retention.HOLDS).write_text("{")
    assert log_care.handler({}, Context(seconds=900))["expired"] == 0


def test_damage_is_told_and_nothing_goes(sent: CloudWatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = grown(tmp_path)
    segment.segments(made.folder)[2].write_bytes(b"torn")
    result = log_care.handler({}, Context(seconds=900))
    assert (result["verdict"], result["expired"], sent.sent["LogVerdict"]) == ("FAILURE", 0, 2)
    assert len(segment.segments(made.folder)) == 4
    assert "CORRUPT" in capsys.readouterr().out


def test_a_log_that_begins_with_the_same_deploy_is_waited_for(sent: CloudWatch, tmp_path: Path) -> None:
    archive = threading.Timer(0.5, grown, (tmp_path,))
    archive.start()
    assert log_care.handler({}, Context(seconds=900))["verdict"] == "OK"
    assert sent.sent["LogVerdict"] == 0
    archive.join()


def test_a_log_that_does_not_begin_is_a_warning_within_the_functions_time(
    sent: CloudWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert log_care.handler({}, Context(seconds=log_care.RESERVE_SECONDS + 0.1))["verdict"] == "WARNING"
    monkeypatch.setattr(log_care, "BEGIN_SECONDS", 0.1)
    assert log_care.handler({}, Context(seconds=900))["verdict"] == "WARNING"
    assert sent.sent["LogVerdict"] == 1


def test_what_there_was_no_time_to_read_is_a_warning(sent: CloudWatch, tmp_path: Path) -> None:
    grown(tmp_path)
    assert log_care.handler({}, Context(seconds=log_care.RESERVE_SECONDS))["verdict"] == "WARNING"


def test_metrics_that_cannot_be_sent_stop_nothing(
    sent: CloudWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grown(tmp_path)

    def hang() -> Any:
        raise EndpointConnectionError(endpoint_url="https://monitoring")

    monkeypatch.setattr(clients, "cloudwatch", hang)
    assert log_care.handler({}, Context(seconds=900))["expired"] == 3
    assert '"metrics"' in capsys.readouterr().out


def test_without_its_age_it_removes_nothing(sent: CloudWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = grown(tmp_path)
    monkeypatch.delenv("LOG_KEPT_DAYS")
    with pytest.raises(EnvironmentIncomplete, match="LOG_KEPT_DAYS"):
        log_care.handler({}, Context(seconds=900))
    assert len(segment.segments(made.folder)) == 4


def test_an_operators_hold_is_answered_with_all_holds_and_its_release_with_what_is_left(
    sent: CloudWatch, tmp_path: Path
) -> None:
    context = Context(seconds=900)
    grown(tmp_path)
    assert log_care.handler({"action": "holds"}, context) == {"holds": []}
    for name in ("court", "drill"):
        answer = log_care.handler({"action": "hold", "name": name, "reason": "case 17"}, context)
    assert [(each["name"], each["reason"]) for each in answer["holds"]] == [("court", "case 17"), ("drill", "case 17")]
    left = log_care.handler({"action": "release", "name": "court"}, context)["holds"]
    assert [each["name"] for each in left] == ["drill"]
    assert log_care.handler({"action": "holds"}, context) == {"holds": left}
    assert sent.sent == {}, "an order is no care: it tells no verdict"


@pytest.mark.parametrize(
    "order",
    [
        {"action": "hold", "name": "court"},
        {"action": "hold", "reason": "no name"},
        {"action": "hold", "name": "../court", "reason": "a path"},
        {"action": "release", "name": "nothing"},
        {"action": "release"},
    ],
    ids=str,
)
def test_an_order_that_cannot_be_followed_is_refused_in_a_sentence_and_changes_nothing(
    sent: CloudWatch, tmp_path: Path, order: dict[str, Any]
) -> None:
    grown(tmp_path)
    log_care.handler({"action": "hold", "name": "kept", "reason": "before"}, Context(seconds=900))
    before = (tmp_path / retention.HOLDS).read_bytes()
    answer = log_care.handler(order, Context(seconds=900))
    assert set(answer) == {"refused"}
    assert answer["refused"]
    assert (tmp_path / retention.HOLDS).read_bytes() == before


def test_holds_that_cannot_be_read_are_neither_listed_as_none_nor_written_over(
    sent: CloudWatch, tmp_path: Path
) -> None:
    grown(tmp_path)
    (tmp_path / retention.HOLDS).write_text("{")
    for order in ({"action": "holds"}, {"action": "hold", "name": "a", "reason": "b"}, {"action": "release"}):
        assert set(log_care.handler(order, Context(seconds=900))) == {"refused"}
    assert (tmp_path / retention.HOLDS).read_text() == "{"
