from __future__ import annotations

import base64
import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from recovery import incident, rotation, scram, secret
from recovery.connection import Credentials, Database, Refused, Session
from recovery.master import NoPasswordWorks, open_first
from recovery.rotation import Rotation, RotationRefused
from recovery.secret import SecretMissing, SecretUnusable, check
from recovery.table import RecoveryTable
from tests.unit.recovery.conftest import MASTER, PASSWORD, Pair

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

SECRET = "citizens/database"
NOW = 1_800_000_000.0


def good(**changes: object) -> str:
    fields: dict[str, object] = {"username": "agency", "password": "Correct-Horse-18"}
    return json.dumps({name: value for name, value in (fields | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("agency", "not JSON"),
        ("[1]", "not an object"),
        (good(username=None), "lacks the field username"),
        (good(password=None), "lacks the field password"),
        (good(password=17), "not a text"),
        (good(username=""), "not a text"),
        (good(password="Short-1"), "7 characters"),
        (good(password="x" * 129), "129 characters"),
        (good(password="slash/slash"), "a slash"),
        (good(password='double"quote'), "a double quote"),
        (good(password="at@at-at-at"), "an at sign"),
        (good(password="with a space"), "a space"),
        (good(password="市民の秘密です十文字"), "not printable ASCII"),
        (good(password="tab\ttabulator"), "not printable ASCII"),
        (good(username="1agency"), "begin with a letter"),
        (good(username="agency-x"), "only letters"),
        (good(username="rdsadmin"), "reserved"),
        (good(username="PG_agency"), "reserved"),
        (good(username="a" * 64), "64 characters"),
    ],
)
def test_what_rds_would_refuse_is_one_clear_sentence(value: str, word: str) -> None:
    (sentence,) = check(value)
    assert word in sentence
    assert sentence.endswith(".")


def test_a_good_secret_has_no_problems_and_two_faults_are_two_sentences() -> None:
    assert check(good(note="kept")) == []
    assert check(good(password="x" * 128)) == []
    assert len(check("{}")) == 2


def test_the_verifier_is_what_postgresql_would_store() -> None:
    # RFC 7677's example: user "user", password "pencil".
    made = scram.verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert made == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert scram.verifier("pencil") != scram.verifier("pencil")


# -- rotation ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(members: Pair, secrets_manager: SecretsManagerClient) -> dict[str, object]:
    fields = {
        "username": MASTER,
        "password": PASSWORD,
        "engine": "postgres",
        "host": members.primary.host,
        "port": members.primary.port,
        "dbname": "citizens",
        "note": "kept",
    }
    secrets_manager.create_secret(Name=SECRET, SecretString=json.dumps(fields))
    return fields


Step = Callable[..., None]


@pytest.fixture
def step(
    members: Pair, secrets_manager: SecretsManagerClient, table: RecoveryTable, stored: dict[str, object], token: str
) -> Any:
    """Run one step of a rotation; the master's password is what the tests expect again afterwards."""

    def run(name: str, of: str = token) -> None:
        Rotation(secrets_manager, members.database, table, members.members, SECRET, of).step(name, NOW)

    yield run
    members.fleet.modify("citizens-1-test", master_password=PASSWORD)


def current(client: SecretsManagerClient) -> dict[str, Any]:
    return dict(secret.read(client, SECRET).fields)


def sign_in(members: Pair, client: SecretsManagerClient) -> None:
    members.open(password=current(client)["password"]).close()


def test_four_steps_change_the_password_and_nothing_else(
    step: Step, members: Pair, secrets_manager: SecretsManagerClient, stored: dict[str, object]
) -> None:
    for name in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        step(name)
    after = current(secrets_manager)
    assert after["password"] != PASSWORD
    assert len(after["password"]) == 32
    assert not set(after["password"]) & set("/\"@'\\ ")
    assert {**after, "password": PASSWORD} == stored
    assert check(json.dumps(after)) == []
    sign_in(members, secrets_manager)
    with pytest.raises(Refused):
        members.open()
    versions = secrets_manager.describe_secret(SecretId=SECRET)["VersionIdsToStages"]
    assert not any("AWSPENDING" in stages for stages in versions.values())


def test_the_test_waits_for_the_new_password_at_the_standby(
    step: Step, members: Pair, secrets_manager: SecretsManagerClient, token: str
) -> None:
    step("createSecret")
    with members.open(members.standby) as standby:
        standby.run("SELECT pg_wal_replay_pause()", 5)
        step("setSecret")
        wanted = json.loads(secrets_manager.get_secret_value(SecretId=SECRET, VersionId=token)["SecretString"])
        members.open(password=wanted["password"]).close()
        with ThreadPoolExecutor(1) as testing:
            tested = testing.submit(step, "testSecret")
            try:
                assert not wait([tested], timeout=2.0).done
                with pytest.raises(Refused):
                    members.open(members.standby, password=wanted["password"])
            finally:
                standby.run("SELECT pg_wal_replay_resume()", 5)
            tested.result(15)
    members.open(members.standby, password=wanted["password"]).close()
    with pytest.raises(Refused):
        members.open(members.standby)


def test_a_standby_that_never_learns_the_new_password_fails_the_test_with_a_sentence(
    step: Step, members: Pair, secrets_manager: SecretsManagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "REPLICATION_SECONDS", 0.3)
    step("createSecret")
    with members.open(members.standby) as standby:
        standby.run("SELECT pg_wal_replay_pause()", 5)
        try:
            step("setSecret")
            with pytest.raises(RotationRefused, match="does not accept the new password"):
                step("testSecret")
        finally:
            standby.run("SELECT pg_wal_replay_resume()", 5)
    assert current(secrets_manager)["password"] == PASSWORD


def test_every_step_may_be_repeated(step: Step, members: Pair, secrets_manager: SecretsManagerClient) -> None:
    for name in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        step(name)
        step(name)
    step("createSecret")
    step("setSecret")
    sign_in(members, secrets_manager)


@pytest.mark.parametrize("killed_after", ["createSecret", "setSecret", "testSecret"])
def test_a_rotation_that_was_left_is_finished_or_replaced_by_the_next(
    step: Step, members: Pair, secrets_manager: SecretsManagerClient, killed_after: str
) -> None:
    for name in ("createSecret", "setSecret", "testSecret"):
        step(name)
        if name == killed_after:
            break
    another = str(uuid.uuid4())
    for name in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        step(name, another)
    sign_in(members, secrets_manager)
    assert secret.read(secrets_manager, SECRET).version == another


def test_killed_between_the_server_and_the_answer_the_new_password_is_found_in_place(
    step: Step, members: Pair, secrets_manager: SecretsManagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    step("createSecret")
    real = Session.run

    def die_after(self: Session, sql: str, seconds: float, **parameters: object) -> Any:
        real(self, sql, seconds, **parameters)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", die_after)
        with pytest.raises(KeyboardInterrupt):
            step("setSecret")
    for name in ("setSecret", "testSecret", "finishSecret"):
        step(name)
    sign_in(members, secrets_manager)


class Killed(BaseException):
    """The function ends here, as when Lambda's time is over."""


@contextlib.contextmanager
def killed_at(call: int, patch: pytest.MonkeyPatch, *, answered: bool) -> Iterator[list[str]]:
    """Die at that call (from 1) to AWS or a server, before it is made or when it was `answered`; yields the calls."""
    calls: list[str] = []

    def mortal(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            fatal = len(calls) == call
            if fatal and not answered:
                raise Killed
            try:
                return act(*arguments, **named)
            finally:
                if fatal:
                    raise Killed

        return acted

    with patch.context() as patched:
        patched.setattr(BaseClient, "_make_api_call", mortal("aws", BaseClient._make_api_call))  # type: ignore[attr-defined]
        patched.setattr(Session, "open", mortal("sign in", Session.open))
        patched.setattr(Session, "run", mortal("statement", Session.run))
        yield calls


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_killed_at_any_call_a_rotation_leaves_a_password_that_works_and_the_next_one_ends(
    step: Step,
    members: Pair,
    secrets_manager: SecretsManagerClient,
    monkeypatch: pytest.MonkeyPatch,
    answered: bool,
) -> None:
    steps = ("createSecret", "setSecret", "testSecret", "finishSecret")
    call, killed = 0, True
    while killed:
        call, token, killed = call + 1, str(uuid.uuid4()), False
        before = current(secrets_manager)["password"]
        with killed_at(call, monkeypatch, answered=answered) as calls:
            try:
                for name in steps:
                    step(name, token)
            except Killed:
                killed = True
        where = f"{calls[-1]}, call {call}"
        left = secret.candidates(secrets_manager, SECRET)
        open_first(members.primary, members.database, left, 5, "test").close()
        # Secrets Manager goes on with the same version; somebody who rotates by hand comes with another.
        following = token if call % 2 else str(uuid.uuid4())
        for name in steps:
            step(name, following)
        sign_in(members, secrets_manager)
        assert current(secrets_manager)["password"] != before, where
        stages = secrets_manager.describe_secret(SecretId=SECRET)["VersionIdsToStages"]
        # On the current version it is harmless: only elsewhere does it tell RotateSecret that a rotation is under way.
        assert all("AWSCURRENT" in held for held in stages.values() if "AWSPENDING" in held), where
    assert call > 20, "a rotation makes more calls than that"


def test_the_plain_password_never_reaches_the_server(
    step: Step, secrets_manager: SecretsManagerClient, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    real = Session.run

    def listen(self: Session, sql: str, seconds: float, **parameters: object) -> Any:
        statements.append(sql)
        return real(self, sql, seconds, **parameters)

    monkeypatch.setattr(Session, "run", listen)
    step("createSecret")
    step("setSecret")
    pending = secret.read(secrets_manager, SECRET, "AWSPENDING").credentials.password
    assert any("ALTER ROLE" in statement for statement in statements)
    assert not any(pending in statement for statement in statements)


def test_no_rotation_while_an_incident_holds_the_lease(
    step: Step, table: RecoveryTable, secrets_manager: SecretsManagerClient
) -> None:
    step("createSecret")
    incident.take_lease(table, 1, "a", NOW - 60)
    for name in ("createSecret", "setSecret", "finishSecret"):
        with pytest.raises(RotationRefused, match="holds the lease"):
            step(name)
    assert current(secrets_manager)["password"] == PASSWORD


def test_a_rotation_that_a_cut_over_has_overtaken_ends_without_undoing_it(
    step: Step, members: Pair, secrets_manager: SecretsManagerClient, token: str
) -> None:
    step("createSecret")
    step("setSecret")
    secrets_manager.put_secret_value(
        SecretId=SECRET, SecretString=secret.read(secrets_manager, SECRET).with_field("note", "moved").text()
    )
    for name in ("setSecret", "testSecret", "finishSecret", "finishSecret"):
        step(name)
    after = current(secrets_manager)
    assert after["note"] == "moved"
    made = secrets_manager.get_secret_value(SecretId=SECRET, VersionId=token)
    assert after["password"] == json.loads(made["SecretString"])["password"]
    sign_in(members, secrets_manager)
    versions = secrets_manager.describe_secret(SecretId=SECRET)["VersionIdsToStages"]
    assert not any({"AWSPENDING", secret.NEXT} & set(stages) for stages in versions.values())


def test_test_secret_alone_tests_the_current_password(
    step: Step, members: Pair, secrets_manager: SecretsManagerClient, stored: dict[str, object]
) -> None:
    step("testSecret", str(uuid.uuid4()))
    secrets_manager.put_secret_value(SecretId=SECRET, SecretString=json.dumps({**stored, "password": "wrong-wrong"}))
    with pytest.raises(NoPasswordWorks, match="set the master password"):
        step("testSecret", str(uuid.uuid4()))


def test_a_pending_version_without_a_value_is_no_password(
    step: Step, secrets_manager: SecretsManagerClient, token: str
) -> None:
    secrets_manager.put_secret_value(
        SecretId=SECRET, SecretString="{}", ClientRequestToken=token, VersionStages=["AWSPENDING"]
    )
    step("testSecret")
    with pytest.raises(RotationRefused, match="rotate again"):
        step("setSecret")


def test_a_database_that_does_not_exist_is_not_a_wrong_password(
    members: Pair, secrets_manager: SecretsManagerClient, table: RecoveryTable, stored: dict[str, object], token: str
) -> None:
    nowhere = Database("nowhere", members.database.tls)
    with pytest.raises(RotationRefused, match="does not exist"):
        Rotation(secrets_manager, nowhere, table, members.members, SECRET, token).step("testSecret", NOW)


def test_an_unknown_step_and_a_secret_without_host_are_refused(
    step: Step, secrets_manager: SecretsManagerClient
) -> None:
    with pytest.raises(RotationRefused, match="is not a step"):
        step("rotateSecret")
    secrets_manager.put_secret_value(SecretId=SECRET, SecretString=good())
    with pytest.raises(SecretUnusable, match="holds no host"):
        step("testSecret")


# -- the secret --------------------------------------------------------------------------------------------------------


def test_a_missing_or_unusable_secret_is_named(secrets_manager: SecretsManagerClient, aws: None) -> None:
    with pytest.raises(SecretMissing, match=SECRET):
        secret.read(secrets_manager, SECRET)
    secrets_manager.create_secret(Name=SECRET, SecretString="{}")
    with pytest.raises(SecretUnusable, match="lacks the field username"):
        secret.read(secrets_manager, SECRET)


def test_other_errors_of_the_store_are_raised_as_they_are(
    secrets_manager: SecretsManagerClient, monkeypatch: pytest.MonkeyPatch, table: RecoveryTable, members: Pair
) -> None:
    def deny(**_: object) -> Any:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetSecretValue")

    monkeypatch.setattr(secrets_manager, "get_secret_value", deny)
    with pytest.raises(ClientError):
        secret.read(secrets_manager, SECRET)
    with pytest.raises(ClientError):
        Rotation(secrets_manager, members.database, table, members.members, SECRET, "x")._made()


def test_a_secret_shows_no_password() -> None:
    assert PASSWORD not in repr(secret.parse(good()))
    assert secret.parse(good()).credentials == Credentials("agency", PASSWORD)
