"""The commands as an operator runs them: bad input is one sentence, Ctrl-C leaves nothing, a drill reports."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from deployment import outputs
from deployment.account import Account
from deployment.cdk import ROOT, Cdk
from deployment.work_tree import PLANS
from drills.client import Application
from recovery import provenance
from recovery.table import RecoveryTable
from tests.contingency_test_report import missing
from tests.integration.conftest import Cloud, eventually

pytestmark = pytest.mark.breaks_the_machine


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"ENV_SUFFIX": ""}, "The environment suffix is missing"),
        ({"ENV_SUFFIX": "Not_A_Suffix"}, "is malformed"),
        ({"REGION": "us-east-1"}, "The region 'us-east-1' is refused"),
        ({"AVAILABILITY_ZONES": "eu-central-2a,eu-central-2a"}, "name two different ones"),
        ({"INSTANCE_CLASS": "db.m6i.large"}, "The instance class 'db.m6i.large'"),
        ({"ENGINE_VERSION": "17.6"}, "The engine version '17.6' is refused"),
    ],
)
def test_a_wrong_setting_is_one_clear_sentence_before_anything_starts(
    environment: dict[str, str], sentence: str
) -> None:
    given = {"ENV_SUFFIX": "ok", **environment}
    done = run("deployment", "deploy", "--local", "--suffix", given["ENV_SUFFIX"], environment=given)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_deploying_without_a_local_cloud_says_how_to_start_one(tmp_path: Path) -> None:
    done = run("deployment", "deploy", "--local", "--suffix", "dev", "--state", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "make local-up" in done.stderr


def test_a_secret_that_cannot_serve_stops_the_deploy_before_anything_is_made(cloud: Cloud) -> None:
    """One of the ways in which it cannot; the others are tried with the preflight that a deploy runs."""
    account, name = Account(cloud.environment), f"citizens/bad/{secrets.token_hex(4)}x"
    value = {"username": "citizens_admin", "password": "with@sign-and-length"}
    account.client("secretsmanager").create_secret(Name=name, SecretString=json.dumps(value))
    state = str(cloud.state)
    arguments = ("deployment", "deploy", "--local", "--suffix", "bad", "--state", state)
    done = run(*arguments, environment={"SECRET_NAME": name})
    assert done.returncode == 1
    assert "at sign" in done.stderr
    assert "Traceback" not in done.stderr
    stacks = account.client("cloudformation").describe_stacks()["Stacks"]
    assert not [stack for stack in stacks if stack["StackName"].endswith("-bad")]


def test_an_unknown_scenario_is_answered_with_the_known_ones() -> None:
    done = run("drills", "--scenario", "earthquake")
    assert done.returncode == 1
    assert "primary-lost" in done.stderr
    assert "primary-lost" in run("drills", "--scenario", "list").stdout
    by_operator = run("drctl", "drill", "earthquake")
    assert (by_operator.returncode, by_operator.stderr) == (done.returncode, done.stderr)


def drill_states() -> set[Path]:
    return set(ROOT.glob(".local-cloud-drill-*"))


def test_a_drill_meets_its_objectives_reports_and_leaves_nothing() -> None:
    before = drill_states()
    done = run("drills")
    assert done.returncode == 0, done.stdout + done.stderr
    latest = ROOT / "reports" / "latest"
    report = json.loads((latest / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "met"
    assert report["scenario"] == "primary-lost"
    assert 0 < report["rto_seconds"] < 60
    assert report["transactions_acknowledged"] > 100
    sources = {entry["source"] for entry in report["timeline"]}
    assert {"client", "drill", "rds status", "state machine", "role record", "witness"} <= sources
    assert report["left_behind"] == []
    assert list(missing(report, (latest / "report.html").read_text(encoding="utf-8"))) == []
    # On a busy machine a step of the failover may have been tried twice, which is told too
    assert [each for each in report["deviations"] if not each.startswith("The machine: ")] == []
    assert drill_states() == before


@pytest.mark.parametrize("moment", ["local cloud at", "transactions so far"])
def test_an_interrupted_drill_leaves_no_process_and_no_file(moment: str) -> None:
    before = drill_states()
    drill = subprocess.Popen(
        [sys.executable, "-m", "drills"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert drill.stdout is not None
    for line in drill.stdout:
        if moment in line:
            break
    (state,) = drill_states() - before
    # The whole foreground group gets it, as from a terminal.
    os.killpg(drill.pid, signal.SIGINT)
    rest = drill.stdout.read()
    assert drill.wait(timeout=60) == 130, rest
    assert "Traceback" not in rest
    assert "nothing is left" in rest
    eventually(lambda: not processes_of(state), 10, "the end of the drill's processes")
    assert not state.exists()


def processes_of(state: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or ())
        if str(state) in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(command)
    return found


def test_every_postgresql_process_may_be_killed_and_service_comes_back(cloud: Cloud) -> None:
    """Deployed apart from the others, since it hurts."""
    suffix = f"kill-{secrets.token_hex(2)}"
    done = run("deployment", "deploy", "--local", "--suffix", suffix, "--state", str(cloud.state))
    assert done.returncode == 0, done.stderr
    account, deployed = Account(cloud.environment), outputs.read(outputs.of_suffix(suffix))
    known = provenance.read(RecoveryTable(account.client("dynamodb"), deployed["RecoveryTableName"]))
    assert known.commit, "what drills name is what was deployed"
    assert known.template_sha256 == Cdk(suffix, cloud.environment).template_sha256()
    assert known.plans.keys() == set(PLANS)
    application = Application(account, deployed)
    with application.connect() as connection:
        connection.execute("CREATE TABLE survives (number int PRIMARY KEY)")
    postmasters = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres" and f"{suffix}-" in " ".join(process.info["cmdline"] or ())
    ]
    assert len(postmasters) == 4, "two members, each with its Multi-AZ copy"
    # One process of every kind there is (checkpointer, WAL sender, a client's …), and then the servers themselves.
    kinds = {process.cmdline()[0].split()[1]: process for server in postmasters for process in server.children()}
    assert {"checkpointer", "walsender", "walreceiver"} <= kinds.keys()
    victims = [*kinds.values(), *postmasters]
    for number, victim in enumerate(victims):
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()

        def writes(number: int = number) -> bool:
            try:
                with application.connect() as connection:
                    connection.execute("INSERT INTO survives VALUES (%s) ON CONFLICT DO NOTHING", (number,))
            except Exception:
                time.sleep(0.2)
                return False
            return True

        eventually(writes, 60, f"service after kill -9 of {victim}")
    with application.connect() as connection:
        present = {row[0] for row in connection.execute("SELECT number FROM survives")}
    assert present == set(range(len(victims)))
    done = run("deployment", "destroy", "--local", "--suffix", suffix, "--state", str(cloud.state))
    assert done.returncode == 0, done.stderr
    Cdk(suffix, cloud.environment).discard()
