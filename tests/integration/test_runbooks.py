"""Every command of every runbook, run against a system that is in the state the page is about; and what `status` says
of a system that is half down.

`dev`, times and positions of the pages stand for those of the system at hand.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deployment import local, outputs
from deployment.account import Account
from deployment.cdk import Cdk
from deployment.destruction import Destruction
from drctl.__main__ import main
from drctl.status import Verdict
from drills.scenarios import post
from recovery.clock import iso
from tests.integration.conftest import Cloud, Deployed, eventually
from tests.integration.test_commands import run
from tests.runbook_pages import STATES, Block, all_blocks, pattern, squeezed

SETTINGS = {"AUTO_REPROTECT": "false"}
SUFFIX_OF_PAGES, POSITION_OF_PAGES, SINCE_OF_PAGES = "dev", "1:0/3A1C2F8", "2026-11-22T10:00:00"
UNTIL_OF_PAGES = "2026-11-22T10:20:30"
LOOKS = ("status", "history", "events", "alarms", "letters", "logs", "look", "log status", "drill list")
"""Commands that change nothing: once in each state is enough, however many pages have them."""
TABLE = "public.runbook_permits"
STATUS_SECONDS = 5.0

# The system ---------------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """A deployed environment of its own, which these tests may break."""

    deployed: Deployed
    state: Path
    file: Path
    words: dict[str, str] = field(default_factory=dict)
    """What stands in the pages → what it is here."""
    said: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        return self.deployed.outputs["EnvironmentSuffix"]

    def member(self, number: int) -> str:
        return self.deployed.outputs[f"Member{number}Identifier"]

    def tell(self, path: str, body: Mapping[str, object] | None = None, method: str = "POST") -> None:
        post(f"{self.deployed.control}/{path}", body, method)

    def run(self, *arguments: str, state: Path | None = None) -> tuple[int, str]:
        """drctl's exit code, and what it said; standard error after standard output."""
        given = ("--outputs", str(self.file), "--state", str(state or self.state), *arguments)
        if arguments[0] == "drill":  # hands its terminal on to another program
            done = run("drctl", *given)
            return done.returncode, done.stdout + done.stderr
        return called(*given)

    def status(self, state: Path | None = None) -> dict[str, Any]:
        """`status --json`, which is never late, whatever state the system is in."""
        began = time.monotonic()
        said = self.run("status", "--json", state=state)[1]
        assert time.monotonic() - began < STATUS_SECONDS
        found: dict[str, Any] = json.loads(said)
        return found

    def here(self, text: str) -> str:
        """A page's text about this system."""
        for word, meant in {**self.words, SUFFIX_OF_PAGES: self.suffix}.items():
            text = re.sub(rf"(?<![\w/]){re.escape(word)}(?![\w/])", meant, text)
        return text


def called(*arguments: str) -> tuple[int, str]:
    """drctl in this process: a hundred starts of Python would be a minute."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments), os.environ)
    return code, out.getvalue() + err.getvalue()


@pytest.fixture(scope="module")
def cloud(steady_cloud: Cloud) -> Cloud:
    return steady_cloud


@pytest.fixture(scope="module")
def pair(cloud: Cloud) -> Iterator[Pair]:
    suffix = f"rb-{secrets.token_hex(2)}"
    environment = {**cloud.environment, **SETTINGS}
    cdk = Cdk(suffix, environment, cloud.state / "cdk.log")
    account = Account(environment)
    cdk.synth()
    local.play_agency(environment, suffix)
    outputs.write(cdk.deploy(), suffix)
    file = outputs.of_suffix(suffix)
    try:
        yield Pair(Deployed(account, outputs.read(file), cdk), cloud.state, file)
    finally:
        Destruction(account, cdk, protect=False, announce=lambda _: None).run()
        outputs.forget(suffix)
        cdk.discard()


@pytest.fixture(scope="module")
def settled(pair: Pair) -> Pair:
    """Both witnesses have reported and the log has begun."""

    def ready() -> bool:
        table = pair.deployed.account.client("dynamodb")
        item = table.get_item(TableName=pair.deployed.outputs["RecoveryTableName"], Key={"id": {"S": "roles"}})
        return "Item" in item

    eventually(ready, 90, "the roles")
    return pair


def until(pair: Pair, what: str, holds: Callable[[dict[str, Any]], bool], within: float = 60) -> None:
    eventually(lambda: holds(pair.status()), within, what)


def settle(pair: Pair) -> None:
    until(
        pair,
        "both witnesses and the log",
        lambda s: (
            len([each for each in s["witnesses"] if each["fresh"] and each["primary"] and each["standby"]]) == 2
            and s["log"]["lag_seconds"] is not None
        ),
        90,
    )


# Half a system down -------------------------------------------------------------------------------------------------


def test_nothing_is_at_risk_when_a_deploy_has_settled(settled: Pair) -> None:
    settle(settled)
    until(settled, "the log's first verdict", lambda s: s["log"]["verdict"] is not None)
    found = settled.status()
    assert (found["log"]["verdict"], found["risks"]) == ("OK", [])
    assert len({each["zone"] for each in found["members"]}) == 2


def test_a_system_that_works_is_seen_in_every_part_within_five_seconds(settled: Pair) -> None:
    settle(settled)
    began = time.monotonic()
    found = settled.status()
    assert time.monotonic() - began < 5
    assert found["unseen"] == {}
    assert [(each["role"], each["status"], each["takes_writes"]) for each in found["members"]] == [
        ("primary", "available", True),
        ("standby", "available", False),
    ]
    assert found["forecast"]["action"] == "promote"
    assert found["forecast"]["back_within"] == 720
    assert not [each for each in found["members"] if each["fenced"]]


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """An endpoint that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"https://127.0.0.1:{server.getsockname()[1]}"
        for each in held:
            each.close()


def elsewhere(pair: Pair, folder: Path, **changes: str) -> Path:
    """The state folder of the same local cloud, with other credentials or another endpoint."""
    environment = dict(
        line.split("=", 1) for line in (pair.state / "environment").read_text(encoding="utf-8").splitlines() if line
    )
    folder.mkdir()
    text = "".join(f"{name}={value}\n" for name, value in {**environment, **changes}.items())
    (folder / "environment").write_text(text, encoding="utf-8")
    return folder


def status_from(pair: Pair, state: Path) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    return pair.status(state), time.monotonic() - began


def test_an_aws_that_hangs_costs_no_more_than_five_seconds_and_everything_is_said_to_be_unseen(
    settled: Pair, tmp_path: Path
) -> None:
    with deaf() as endpoint:
        state = elsewhere(settled, tmp_path / "deaf", AWS_ENDPOINT_URL=endpoint)
        found, took = status_from(settled, state)
    assert took < 5
    assert found["exit_code"] == Verdict.UNSEEN
    assert {"recovery table", "RDS", "EC2", "CloudWatch", "secret", "machines", "settings"} <= found["unseen"].keys()


@pytest.mark.parametrize(
    ("service", "sources"),
    [
        ("dynamodb", {"recovery table"}),
        ("cloudwatch", {"CloudWatch", "alarms"}),
        ("rds", {"RDS"}),
        ("secretsmanager", {"secret"}),
        ("states", {"machines"}),
    ],
)
def test_a_caller_whom_one_service_refuses_still_sees_the_rest(
    settled: Pair, tmp_path: Path, service: str, sources: set[str]
) -> None:
    iam, name = settled.deployed.account.client("iam"), f"operator-{service}-{settled.suffix}"
    allowed = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    denied = {"Effect": "Deny", "Action": f"{service}:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed, denied]})
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="but-one", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    state = elsewhere(
        settled,
        tmp_path / "denied",
        AWS_ACCESS_KEY_ID=key["AccessKeyId"],
        AWS_SECRET_ACCESS_KEY=key["SecretAccessKey"],
    )
    found = settled.status(state)
    assert sources <= found["unseen"].keys()
    assert all("AccessDenied" in why for why in found["unseen"].values())
    # Only the password is needed to ask the members themselves
    writes = [None, None] if service == "secretsmanager" else [True, False]
    assert [each["takes_writes"] for each in found["members"]] == writes
    assert found["exit_code"] in (Verdict.UNSEEN, Verdict.AT_RISK)


@pytest.mark.parametrize("fault", ["cut", "hang"])
def test_members_that_nobody_reaches_from_here_cost_no_more_than_five_seconds(settled: Pair, fault: str) -> None:
    both = [settled.member(number) for number in (1, 2)]
    for member in both:
        settled.tell(f"rds/{member}/endpoint", {"fault": fault, "from": "applications"})
    try:
        found = settled.status()
    finally:
        for member in both:
            settled.tell(f"rds/{member}/endpoint", {"fault": "none"})
    assert all(each["unreachable"] for each in found["members"])
    assert [each["takes_writes"] for each in found["members"]] == [None, None]
    assert [each["status"] for each in found["members"]] == ["available", "available"]
    assert len([each for each in found["witnesses"] if each["fresh"]]) == 2


def test_a_secret_that_is_missing_is_said_to_be_missing(settled: Pair, tmp_path: Path) -> None:
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps({**settled.deployed.outputs, "SecretName": "citizens/nobody"}), encoding="utf-8")
    found = Pair(settled.deployed, settled.state, file).status()
    assert "ResourceNotFound" in found["unseen"]["secret"]
    assert [each["status"] for each in found["members"]] == ["available", "available"]
    assert found["exit_code"] in (Verdict.UNSEEN, Verdict.AT_RISK)


def test_where_nothing_is_deployed_nothing_is_called_well(cloud: Cloud) -> None:
    nobody = ("--local", "--state", str(cloud.state), "--suffix", "nobody")
    code, said = called("status", "--json", *nobody)
    found = json.loads(said)
    assert code in (Verdict.UNSEEN, Verdict.AT_RISK)
    assert [each["status"] for each in found["members"]] == ["absent", "absent"]
    assert "ResourceNotFound" in found["unseen"]["recovery table"]
    assert called("history", *nobody) == (1, "There is no environment nobody: deploy it first.\n")


@pytest.mark.parametrize("command", ["switchover", "failover", "reprotect", "override", "log release"])
def test_nothing_is_started_for_a_suffix_that_is_not_this_one(settled: Pair, command: str) -> None:
    rest = {
        "override": ("--accept", "lag", "--reason", "a test", "--minutes", "5"),
        "log release": ("--name", "nothing"),
    }.get(command, ())
    code, said = settled.run(*command.split(), *rest, "--yes", "prod")
    # A reprotect of a pair that is whole deletes nothing and asks nobody
    if command == "reprotect":
        assert (code, "Outcome: protected" in said) == (0, True)
    else:
        assert code == 1
        assert "Nothing was started" in said
    assert settled.status()["epoch"] == 1


# The states ---------------------------------------------------------------------------------------------------------


def healthy(pair: Pair) -> Iterator[None]:
    settle(pair)
    yield


def paused(pair: Pair) -> Iterator[None]:
    code, said = pair.run("pause", "--minutes", "10", "--reason", "patching")
    assert code == 0, said
    yield
    pair.run("resume")


def standby_frozen(pair: Pair) -> Iterator[None]:
    pair.tell(f"rds/{pair.member(2)}/freeze")
    until(
        pair,
        "both witnesses blind for the standby",
        lambda s: len([each for each in s["witnesses"] if each["fresh"] and not each["standby"]]) == 2,
    )
    yield
    pair.tell(f"rds/{pair.member(2)}/thaw")
    settle(pair)


def standby_lags(pair: Pair) -> Iterator[None]:
    pair.tell(f"rds/{pair.member(2)}/replay", {"paused": True})
    until(pair, "a lag", lambda s: any((each["lag_seconds"] or 0) > 2 for each in s["witnesses"]))
    yield
    pair.tell(f"rds/{pair.member(2)}/replay", {"paused": False})
    settle(pair)


def upload_wal(pair: Pair, member: int) -> None:
    """What is committed by now can be restored to: AWS's own pace of five minutes is too slow for a test."""
    rds, now = pair.deployed.account.client("rds"), time.time()

    def latest() -> float:
        found = rds.describe_db_instances(DBInstanceIdentifier=pair.member(member))["DBInstances"][0]
        return float(found["LatestRestorableTime"].timestamp()) if "LatestRestorableTime" in found else 0.0

    pair.tell("delays", {"log_upload_seconds": 0.5}, "PUT")
    eventually(lambda: latest() > now + 1, 60, "something to restore to")
    pair.tell("delays", {"log_upload_seconds": 300}, "PUT")


def restored_is_gone(pair: Pair) -> None:
    rds = pair.deployed.account.client("rds")
    with contextlib.suppress(rds.exceptions.DBInstanceNotFoundFault):
        rds.delete_db_instance(DBInstanceIdentifier=f"citizens-restored-{pair.suffix}", SkipFinalSnapshot=True)


def table_dropped(pair: Pair) -> Iterator[None]:
    with pair.deployed.application.connect() as connection:
        connection.execute(f"CREATE TABLE {TABLE} (number int PRIMARY KEY)")
    upload_wal(pair, 1)
    began = time.time()
    with pair.deployed.application.connect() as connection:
        connection.execute(f"DROP TABLE {TABLE}")

    def harm() -> str | None:
        found = json.loads(pair.run("log", "list", "--json", "--since", iso(began))[1])["transactions"]
        return next((str(each["position"]) for each in found if f"DROP TABLE {TABLE}" in each["ddl"]), None)

    pair.words |= {POSITION_OF_PAGES: eventually(harm, 90, "the drop in the log"), SINCE_OF_PAGES: iso(began)}
    yield
    restored_is_gone(pair)


def primary_lost(pair: Pair) -> Iterator[None]:
    """Paused, so that it stays so: the system would be back in ten seconds."""
    assert pair.run("pause", "--minutes", "30", "--reason", "a rehearsal")[0] == 0
    pair.tell(f"rds/{pair.member(1)}/lose")
    until(
        pair,
        "a database that takes no writes",
        lambda s: s["exit_code"] == Verdict.DOWN and s["members"][0]["status"] == "failed" and len(s["witnesses"]) == 2,
    )
    yield


def unprotected(pair: Pair) -> Iterator[None]:
    pair.run("resume")
    until(
        pair,
        "a new primary",
        lambda s: (
            s["epoch"] == 2
            and not s["running"]
            and len([each for each in s["witnesses"] if each["fresh"] and each["primary"]]) == 2
            and s["members"][1]["takes_writes"]
        ),
        90,
    )
    yield


def both_lost(pair: Pair) -> Iterator[None]:
    settle(pair)
    upload_wal(pair, 1 + [each["role"] for each in pair.status()["members"]].index("primary"))
    pair.words[UNTIL_OF_PAGES] = iso(time.time())
    for number in (2, 1):
        pair.tell(f"rds/{pair.member(number)}/lose")
    until(
        pair,
        "both lost",
        lambda s: s["exit_code"] == Verdict.DOWN and {each["status"] for each in s["members"]} == {"failed"},
    )
    yield
    restored_is_gone(pair)


FOLLOWS = {"unprotected": "primary-lost"}
"""What a state comes out of: when one page's test runs alone, that is brought about first."""
CAUSES: Mapping[str, Callable[[Pair], Iterator[None]]] = {state: globals()[state.replace("-", "_")] for state in STATES}


@pytest.fixture(scope="module")
def current(settled: Pair) -> Iterator[dict[str, Any]]:
    """The state that the system is in, and what ends it."""
    held: dict[str, Any] = {}
    yield held
    if held:
        next(held["ending"], None)


def bring_about(pair: Pair, current: dict[str, Any], state: str) -> None:
    if current.get("state") == state:
        return
    if state in FOLLOWS:
        bring_about(pair, current, FOLLOWS[state])
    if current:
        next(current["ending"], None)
    else:
        settle(pair)
    ending = CAUSES[state](pair)
    current |= {"state": state, "ending": ending}
    next(ending)


@pytest.mark.parametrize("block", all_blocks(), ids=str)
def test_a_runbooks_commands_say_what_the_page_shows(settled: Pair, current: dict[str, Any], block: Block) -> None:
    bring_about(settled, current, block.state)
    for command in block.commands:
        arguments = settled.here(command.line.removeprefix("drctl "))
        key = (block.state, arguments)
        if key not in settled.said or not arguments.startswith(LOOKS):
            settled.said[key] = settled.run(*shlex.split(arguments))
            settle_after(settled, arguments)
        code, said = settled.said[key]
        assert code in (0, 1, 3, 4, 5), said
        assert "Traceback" not in said
        assert pattern(settled.here(command.expected)).fullmatch(squeezed(said)), f"$ {command.line}\n{said}"


def settle_after(pair: Pair, arguments: str) -> None:
    """A rotation goes on in the background: whoever signs in meanwhile may be refused once."""
    if not arguments.startswith("rotate"):
        return
    described = pair.deployed.account.client("secretsmanager").describe_secret

    def done() -> bool:
        stages = described(SecretId=pair.deployed.outputs["SecretArn"])["VersionIdsToStages"].values()
        return not any("AWSPENDING" in each and "AWSCURRENT" not in each for each in stages)

    time.sleep(0.5)
    eventually(done, 60, "the end of the rotation")
