"""The transaction log's alarms fire because of what they are about, and clear when that has passed.

The members' disks are too large to be filled here: where a threshold is a share of one, the alarm gets the threshold
that a small disk would have, and all else is as deployed: what is measured, where, and for how long it must last.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from drills.scenarios import post
from privilege.site import Site
from tests.integration.conftest import Cloud, Deployed, a_cloud, a_system, eventually

pytestmark = pytest.mark.breaks_the_machine

MIB = 1 << 20
MINUTE, DAY = 60, 86_400
SEGMENTS = 28
"""Of 16 MiB each: more than the local cloud's servers keep for no slot (`wal_keep_size`, 256 MiB)."""
KEPT_MIB = 352
BATCH = 1_000_000
"""What one batch of the archive takes; the log has as many messages for each of three, and a rest."""
PUT = (
    *("AlarmName", "AlarmDescription", "ActionsEnabled", "OKActions", "AlarmActions", "InsufficientDataActions"),
    *("MetricName", "Namespace", "Statistic", "Dimensions", "Period", "EvaluationPeriods", "DatapointsToAlarm"),
    *("Threshold", "ComparisonOperator", "TreatMissingData"),
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """One of these tests' own: they move its clock by days."""
    with a_cloud() as made:
        yield made


@pytest.fixture(scope="module")
def deployed(cloud: Cloud) -> Iterator[Deployed]:
    with a_system(cloud) as made:
        yield made


@pytest.fixture(scope="module")
def site(deployed: Deployed) -> Iterator[Site]:
    """The deployed system with an archive that only runs when it is told to."""
    made = Site(deployed.account, deployed.outputs)
    made.role_record()
    function = made.function("archive")
    scheduler = made.client("scheduler")
    (schedule,) = [
        found
        for page in scheduler.get_paginator("list_schedules").paginate()
        for found in page["Schedules"]
        if found["Target"]["Arn"].rpartition(":")[2] == function
    ]
    known = scheduler.get_schedule(Name=schedule["Name"], GroupName=schedule["GroupName"])
    kept = ("Name", "GroupName", "FlexibleTimeWindow", "ScheduleExpression", "Target", "Description")
    settings = {name: known[name] for name in kept if name in known}
    functions = made.client("lambda")
    scheduler.update_schedule(**settings, State="DISABLED")
    # A run that is killed would begin again a minute later, by itself
    functions.put_function_event_invoke_config(FunctionName=function, MaximumRetryAttempts=0)
    try:
        post(f"{made.control}/functions/{function}/kill")
        yield made
    finally:
        functions.delete_function_event_invoke_config(FunctionName=function)
        scheduler.update_schedule(**settings, State="ENABLED")


def full(site: Site, name: str) -> str:
    return f"citizens-{name}-{site.suffix}"


def states(site: Site, *names: str) -> list[str]:
    wanted = [full(site, name) for name in names]
    found = site.client("cloudwatch").describe_alarms(AlarmNames=wanted)["MetricAlarms"]
    of = {each["AlarmName"]: each["StateValue"] for each in found}
    return [of[name] for name in wanted]


def expect(site: Site, *wanted: tuple[str, str], within: float = 30) -> None:
    names = [name for name, _ in wanted]
    try:
        eventually(lambda: states(site, *names) == [state for _, state in wanted], within, "the alarms")
    except AssertionError:
        raise AssertionError(f"wanted {wanted}, found {states(site, *names)}") from None


def next_period(site: Site, seconds: int) -> None:
    """Move the clock to where the next period of that length has just begun."""
    now = post(f"{site.control}/clock", {"advance_seconds": 0}, "PUT")["now"]
    post(f"{site.control}/clock", {"advance_seconds": seconds - now % seconds + 1}, "PUT")


@contextlib.contextmanager
def threshold(site: Site, value: float, *names: str) -> Iterator[None]:
    """The alarms with another threshold, in their metric's unit."""
    cloudwatch = site.client("cloudwatch")
    found = cloudwatch.describe_alarms(AlarmNames=[full(site, name) for name in names])["MetricAlarms"]
    assert len(found) == len(names)
    before = [{name: each[name] for name in PUT if each.get(name) not in (None, [], "")} for each in found]
    for each in before:
        cloudwatch.put_metric_alarm(**(each | {"Threshold": value}))
    try:
        yield
    finally:
        for each in before:
            cloudwatch.put_metric_alarm(**each)


def archive(site: Site) -> Any:
    """One batch."""
    return site.invoke("archive", {"seconds": 0})


def drain(site: Site) -> None:
    while archive(site)["segments"]:
        pass


def write_wal(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    for _ in range(SEGMENTS):
        connection.execute("SELECT pg_logical_emit_message(true, 'test', 'x')")
        connection.execute("SELECT pg_switch_wal()")


def test_an_archive_that_stands_still_is_an_alarm_and_so_is_the_wal_that_its_slot_keeps(
    site: Site, deployed: Deployed
) -> None:
    drain(site)
    next_period(site, MINUTE)
    drain(site)
    expect(site, ("log-lag", "OK"), ("slot-lag-1", "OK"), ("transaction-logs-1", "OK"))
    names = [f"{what}-{number}" for what in ("slot-lag", "transaction-logs") for number in (1, 2)]
    with threshold(site, KEPT_MIB * MIB, *names):
        with deployed.application.connect() as connection:
            write_wal(connection)
        for _ in range(6):
            next_period(site, MINUTE)
        expect(site, ("log-lag", "ALARM"), ("slot-lag-1", "ALARM"), ("transaction-logs-1", "ALARM"))
        expect(site, ("slot-lag-2", "ALARM"), ("transaction-logs-2", "ALARM"))
        drain(site)
        with deployed.application.connect() as connection:
            connection.autocommit = True

            def slots_are_near() -> bool:
                """A slot learns at checkpoints that it reads beyond what WAL it needs; the standby's copy follows."""
                connection.execute("CHECKPOINT")
                archive(site)
                next_period(site, MINUTE)
                return states(site, "slot-lag-1", "slot-lag-2") == ["OK", "OK"]

            eventually(slots_are_near, 60, "slots that keep little")
        expect(site, ("log-lag", "OK"), ("slot-lag-1", "OK"), ("slot-lag-2", "OK"))
    # PostgreSQL uses the files again rather than removing them: it is the larger disk that clears these.
    next_period(site, MINUTE)
    archive(site)
    expect(site, ("transaction-logs-1", "OK"), ("transaction-logs-2", "OK"))


def test_an_archive_that_does_not_keep_up_is_an_alarm(site: Site, deployed: Deployed) -> None:
    """Behind by more than its batches take in each of three minutes."""
    drain(site)
    with threshold(site, 2 * MIB, "log-lag-bytes"):
        with deployed.application.connect() as connection:
            connection.autocommit = True
            for _ in range(33):
                connection.execute(
                    "SELECT count(pg_logical_emit_message(true, 'test', 'x')) FROM generate_series(1, 100000)"
                )
        for _ in range(3):
            next_period(site, MINUTE)
            assert BATCH <= archive(site)["messages"] < 1.2 * BATCH
        expect(site, ("log-lag-bytes", "ALARM"))
        drain(site)
        next_period(site, MINUTE)
        drain(site)
        expect(site, ("log-lag-bytes", "OK"))


def test_a_slot_that_is_gone_is_an_alarm_once_and_the_log_goes_on(site: Site, deployed: Deployed) -> None:
    drain(site)
    with deployed.application.connect() as connection:
        connection.autocommit = True
        connection.execute("SELECT pg_drop_replication_slot('citizens_log')")
        connection.execute("SELECT pg_logical_emit_message(true, 'test', 'in no log')")
    next_period(site, MINUTE)
    assert archive(site)["gaps"] == 1
    expect(site, ("log-gap", "ALARM"))
    next_period(site, MINUTE)
    assert archive(site)["gaps"] == 0
    expect(site, ("log-gap", "OK"))


def test_a_segment_that_was_changed_is_an_alarm_until_it_is_brought_back(site: Site, cloud: Cloud) -> None:
    (folder,) = (cloud.state / "efs" / site.outputs["FileSystemId"]).rglob("epoch-1")
    damaged: Path = sorted(folder.glob("*.segment"))[-2]
    content = damaged.read_bytes()
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    try:
        damaged.write_bytes(changed)
        found = site.invoke("log-care", {})
        assert (found["verdict"], found["expired"]) == ("FAILURE", 0), json.dumps(found)
        expect(site, ("log-verdict", "ALARM"))
    finally:
        damaged.write_bytes(content)
    next_period(site, DAY)
    assert site.invoke("log-care", {})["verdict"] in ("OK", "WARNING"), "a gap is a warning"
    expect(site, ("log-verdict", "OK"))
