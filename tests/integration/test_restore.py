"""`log` and `restore` as an operator runs them, on a deployed system: the drill's way, through the command line."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from drills.scenarios import post
from recovery.clock import iso
from tests.integration.conftest import Cloud, Deployed, eventually
from tests.integration.test_commands import run

pytestmark = pytest.mark.breaks_the_machine

TABLE = "public.restore_register"


@pytest.fixture
def restored(deployed: Deployed) -> Iterator[str]:
    """The identifier of the restored instance, which is gone afterwards."""
    name = f"citizens-restored-{deployed.outputs['EnvironmentSuffix']}"
    yield name
    rds = deployed.account.client("rds")
    with contextlib.suppress(rds.exceptions.DBInstanceNotFoundFault):
        rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)


def command(cloud: Cloud, deployed: Deployed, *arguments: str) -> tuple[int, str, str]:
    suffix = deployed.outputs["EnvironmentSuffix"]
    done = run("drctl", *arguments, "--local", "--state", str(cloud.state), "--suffix", suffix)
    return done.returncode, done.stdout, done.stderr


def test_a_dropped_table_is_found_in_the_log_and_restored_by_two_commands(
    cloud: Cloud, deployed: Deployed, restored: str
) -> None:
    rds, member = deployed.account.client("rds"), deployed.outputs["Member1Identifier"]
    with deployed.application.connect() as connection:
        connection.execute(f"CREATE TABLE {TABLE} (number int PRIMARY KEY)")
        connection.execute(f"INSERT INTO {TABLE} VALUES (1)")
        created = time.time()
    # Its own pace of five minutes is too slow for a test.
    post(f"{deployed.control}/delays", {"log_upload_seconds": 0.5}, "PUT")
    eventually(lambda: latest(rds, member) > created + 1 or None, 60, "something to restore to")
    post(f"{deployed.control}/delays", {"log_upload_seconds": 300}, "PUT")
    began = time.time()
    with deployed.application.connect() as connection:
        connection.execute(f"INSERT INTO {TABLE} VALUES (2)")
        connection.execute(f"DROP TABLE {TABLE}")

    def harm() -> Any:
        code, out, err = command(cloud, deployed, "log", "list", "--json", "--since", iso(began))
        assert (code, err) == (0, "")
        return next((each for each in json.loads(out)["transactions"] if f"DROP TABLE {TABLE}" in each["ddl"]), None)

    position = eventually(harm, 90, "the drop in the log")["position"]
    code, out, err = command(cloud, deployed, "restore", "--before-transaction", position, "--json")
    assert code == 0, err
    outcome = json.loads(out)
    assert outcome["identifier"] == restored
    assert outcome["after"][0]["position"] == position
    user, password = deployed.application.credentials()
    with psycopg.connect(
        host=outcome["host"],
        port=outcome["port"],
        dbname="citizens",
        user=user,
        password=password,
        sslmode="verify-full",
        sslrootcert=deployed.application.certificate_authority,
    ) as connection:
        assert connection.execute(f"SELECT number FROM {TABLE} ORDER BY 1").fetchall() == [(1,), (2,)]

    code, out, err = command(cloud, deployed, "restore", "--before-transaction", position)
    assert (code, err) == (0, ""), "a repetition goes on with what is there"
    assert f"{restored} is there already, available: going on with it" in out
    code, _, err = command(cloud, deployed, "restore", "--to-time", iso(began))
    assert code == 1
    assert err.startswith(f"{restored} is there already, restored before {position}: delete it first")
    assert len(err.splitlines()) == 1
    code, out, _ = command(cloud, deployed, "preflight")
    assert f"{restored} is available, outside the stack" in out


def latest(rds: Any, member: str) -> float:
    found = rds.describe_db_instances(DBInstanceIdentifier=member)["DBInstances"][0]
    moment = found.get("LatestRestorableTime")
    return moment.timestamp() if moment is not None else 0.0
