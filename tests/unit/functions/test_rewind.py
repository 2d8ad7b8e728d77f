"""The rewind function with real members and a real log: what it lists, where it stops, what it refuses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from functions import rewind
from functions.environment import log_folder
from local_cloud.fleet import InstanceSpec
from recovery.clock import iso
from recovery.connection import Credentials, Session
from recovery.members import Endpoint
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.path import LogUnfit
from tests.unit.functions.conftest import Context
from tests.unit.recovery.conftest import MASTER, PASSWORD, PRIMARY, Pair


@pytest.fixture(autouse=True)
def as_its_user(monkeypatch: pytest.MonkeyPatch, deployed: Pair) -> None:
    monkeypatch.setenv("DATABASE_USER", "citizens_roll_forward")


def keep_log(members: Pair) -> None:
    """Everything committed until now is in the log afterwards."""
    with members.open() as session:
        archive = Archive(session, log_folder() / "epoch-1", 1)
        archive.prepare()
        while archive.step() is not None:
            pass


def ask(**event: Any) -> dict[str, Any]:
    return rewind.handler(event, Context(120))


def restorable(members: Pair, moment: float) -> None:
    deadline = time.monotonic() + 60
    while True:
        latest = members.fleet.describe(PRIMARY).latest_restorable_time
        if latest is not None and latest.timestamp() > moment:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def restore(members: Pair) -> Endpoint:
    """To the latest restorable time, as `deployment restore` has RDS do it."""
    source = members.fleet.describe(PRIMARY)
    spec = InstanceSpec(
        identifier="citizens-restored-test",
        master_username=MASTER,
        master_password=PASSWORD,
        database="citizens",
        port=5432,
        multi_az=False,
        parameters={"rds.logical_replication": "1", "track_commit_timestamp": "1"},
        engine_version="18.6",
        security_groups=(),
        availability_zones=("eu-central-2a", "eu-central-2c"),
        deletion_protection=False,
    )
    view = members.fleet.restore(spec, source.resource_id, None)
    return Endpoint(view.endpoint_address, view.endpoint_port)


def test_a_table_that_was_dropped_is_back_with_all_that_was_committed_before(deployed: Pair) -> None:
    """The restore is behind, the log goes on from there, twice is as good as once, and what came after is listed."""
    fleet = deployed.fleet
    usual = fleet.delays
    try:
        fleet.delays = type(usual)(**{**vars(usual), "log_upload_seconds": 0.2})
        with deployed.open() as session:
            session.run("CREATE TABLE kept (n int PRIMARY KEY); CREATE TABLE dropped (n int PRIMARY KEY)", 10)
        keep_log(deployed)
        with deployed.open() as session:
            session.run("INSERT INTO kept VALUES (1); INSERT INTO dropped VALUES (1)", 10)
        fleet.modify(PRIMARY, backup_retention_days=1)
        restorable(deployed, time.time())
        fleet.delays = usual
        endpoint = restore(deployed)
        with deployed.open() as session:
            session.run("INSERT INTO kept VALUES (2)", 10)
            session.run("INSERT INTO dropped VALUES (2)", 10)
        began = time.time()
        with deployed.open() as session:
            session.run("DELETE FROM dropped", 10)
            session.run("INSERT INTO kept VALUES (3)", 10)
        keep_log(deployed)

        found = ask(action="list", since=iso(began))["transactions"]
        harm = next(each for each in found if "public.dropped" in each["tables"])
        assert harm["tables"] == {"public.dropped": {"inserted": 0, "updated": 0, "deleted": 2, "truncated": 0}}
        assert ask(action="find", at=harm["position"]) == harm
        where = {"host": endpoint.host, "port": endpoint.port}
        stood = ask(action="stand", **where)["stands"]
        dry = ask(action="roll-forward", before=harm["position"], dry_run=True, **where)
        assert (dry["dry_run"], dry["transactions"]) == (True, 2)
        accounts = [ask(action="roll-forward", before=harm["position"], **where) for _ in range(2)]
        for account in accounts:
            assert (account["had"], account["transactions"], account["target_reached"]) == (stood, 2, True)
        database = deployed.database
        with Session.open(endpoint, database, Credentials(MASTER, PASSWORD), 10, "test") as session:
            assert session.run("SELECT n FROM kept ORDER BY n", 5) == [[1], [2]]
            assert session.run("SELECT n FROM dropped ORDER BY n", 5) == [[1], [2]]
        after = ask(action="list", after=accounts[0]["reached"])["transactions"]
        assert [list(each["tables"]) for each in after] == [["public.dropped"], ["public.kept"]]
    finally:
        fleet.delays = usual
        if "citizens-restored-test" in fleet.identifiers():
            fleet.delete("citizens-restored-test")
        fleet.modify(PRIMARY, backup_retention_days=0)


def test_what_it_cannot_do_is_one_sentence(deployed: Pair, tmp_path: Path) -> None:
    with pytest.raises(LogUnfit, match="There is no log"):
        ask(action="list")
    keep_log(deployed)
    member = {"host": deployed.primary.host, "port": deployed.primary.port}
    with pytest.raises(rewind.RequestUnclear, match="is a member"):
        ask(action="roll-forward", before="1:0/1", **member)
    with pytest.raises(rewind.RequestUnclear, match="Say where to stop"):
        ask(action="roll-forward", host="127.0.0.1", port=1)
    with pytest.raises(rewind.RequestUnclear, match="none of list"):
        ask(action="erase")
    with pytest.raises(rewind.NoSuchTransaction, match="No transaction of the log commits at 1:0/1"):
        ask(action="find", at="1:0/1")
