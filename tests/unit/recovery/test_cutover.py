"""The machine's steps on PostgreSQL: look, cut over, verify."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from local_cloud.endpoint import Fault
from recovery import roles, secret
from recovery.access import Access
from recovery.connection import Session
from recovery.cutover import CutOver, NotPromoted, pass_roles, point_secret
from recovery.members import Endpoint
from recovery.probe import look
from recovery.roles import Roles, RolesChanged
from recovery.secret import SecretContested
from recovery.table import RecoveryTable
from recovery.verification import VerificationFailed, verify
from tests.unit.recovery.conftest import MASTER, PASSWORD, PRIMARY, STANDBY, Pair
from tests.unit.recovery.test_connection import server

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

NOW = 1_800_000_000.0
SECRET = "citizens/database"


class Killed(Exception):
    """The function was killed here."""


@pytest.fixture
def access(members: Pair, secrets_manager: SecretsManagerClient, table: RecoveryTable) -> Access:
    """Epoch 1: citizens-2 was the primary; citizens-1 (which takes writes) is to follow it."""
    roles.create(table, STANDBY, PRIMARY, NOW)
    fields = {
        "username": MASTER,
        "password": PASSWORD,
        "host": members.standby.host,
        "port": members.standby.port,
        "dbname": "citizens",
        "note": "kept",
    }
    secrets_manager.create_secret(Name=SECRET, SecretString=json.dumps(fields))
    return members.access("citizens_verify")


def cut_over(order: CutOver, members: Pair, client: SecretsManagerClient, table: RecoveryTable, now: float) -> Roles:
    """Both steps of the machine."""
    point_secret(order, client, SECRET, members.database, table)
    return pass_roles(order, table, now)


def order(members: Pair) -> CutOver:
    return CutOver("20270115T080000Z-abcd", 1, members.members[PRIMARY], STANDBY)


def done(members: Pair, client: SecretsManagerClient, table: RecoveryTable) -> bool:
    current = secret.read(client, SECRET)
    known = roles.known(table)
    return (current.endpoint, known.epoch, known.primary, known.standby) == (members.primary, 2, PRIMARY, STANDBY)


def test_host_and_roles_pass_to_the_new_primary_and_all_else_stays(
    members: Pair, access: Access, secrets_manager: SecretsManagerClient, table: RecoveryTable
) -> None:
    passed = cut_over(order(members), members, secrets_manager, table, NOW)
    assert passed == Roles(2, PRIMARY, STANDBY, "2027-01-15T08:00:00.000Z", protected=False)
    assert done(members, secrets_manager, table)
    fields = secret.read(secrets_manager, SECRET).fields
    assert (fields["username"], fields["password"], fields["note"]) == (MASTER, PASSWORD, "kept")


def test_a_repeat_changes_nothing_and_says_the_same(
    members: Pair, access: Access, secrets_manager: SecretsManagerClient, table: RecoveryTable
) -> None:
    first = cut_over(order(members), members, secrets_manager, table, NOW)
    version = secret.read(secrets_manager, SECRET).version
    assert cut_over(order(members), members, secrets_manager, table, NOW + 60) == first
    assert secret.read(secrets_manager, SECRET).version == version


@pytest.mark.parametrize("where", ["before the secret", "after the secret", "after the roles"])
def test_killed_anywhere_a_repeat_completes_it(
    members: Pair,
    access: Access,
    secrets_manager: SecretsManagerClient,
    table: RecoveryTable,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    real = roles.advance

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    def advance_and_die(*arguments: Any) -> Any:
        real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        if where == "before the secret":
            patch.setattr(secret, "replace_current", die)
        else:
            patch.setattr(roles, "advance", die if where == "after the secret" else advance_and_die)
        with pytest.raises(Killed):
            cut_over(order(members), members, secrets_manager, table, NOW)
    if where == "after the secret":
        assert roles.known(table).epoch == 1, "the witnesses must go on suspecting"
    cut_over(order(members), members, secrets_manager, table, NOW)
    assert done(members, secrets_manager, table)


def test_a_member_in_recovery_is_not_cut_over_to(
    members: Pair, access: Access, secrets_manager: SecretsManagerClient, table: RecoveryTable
) -> None:
    wrong = CutOver("i", 1, members.members[STANDBY], PRIMARY)
    with pytest.raises(NotPromoted, match="still in recovery"):
        cut_over(wrong, members, secrets_manager, table, NOW)
    assert roles.known(table).epoch == 1


def test_roles_of_another_epoch_stop_the_cut_over(
    members: Pair, access: Access, secrets_manager: SecretsManagerClient, table: RecoveryTable
) -> None:
    late = CutOver("i", 7, members.members[PRIMARY], STANDBY)
    with pytest.raises(RolesChanged, match="nothing was changed"):
        cut_over(late, members, secrets_manager, table, NOW)
    assert secret.read(secrets_manager, SECRET).endpoint == members.standby


def test_the_password_that_works_is_the_one_that_is_kept(
    members: Pair, access: Access, secrets_manager: SecretsManagerClient, table: RecoveryTable
) -> None:
    current = secret.read(secrets_manager, SECRET)
    secrets_manager.put_secret_value(
        SecretId=SECRET, SecretString=current.text(), ClientRequestToken="p" * 32, VersionStages=["AWSPENDING"]
    )
    secrets_manager.put_secret_value(SecretId=SECRET, SecretString=current.with_password("superseded-1").text())
    cut_over(order(members), members, secrets_manager, table, NOW)
    assert secret.read(secrets_manager, SECRET).credentials.password == PASSWORD


@pytest.mark.parametrize(
    ("code", "error"), [("ResourceExistsException", SecretContested), ("AccessDeniedException", ClientError)]
)
def test_a_secret_that_cannot_be_written_stops_the_cut_over(
    members: Pair,
    access: Access,
    secrets_manager: SecretsManagerClient,
    table: RecoveryTable,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    error: type[Exception],
) -> None:
    def refuse(**_: object) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "PutSecretValue")

    monkeypatch.setattr(secrets_manager, "put_secret_value", refuse)
    with pytest.raises(error):
        cut_over(order(members), members, secrets_manager, table, NOW)
    assert roles.known(table).epoch == 1


# -- verification -----------------------------------------------------------------------------------------------------


def test_a_recovered_primary_keeps_what_an_application_writes(
    members: Pair, access: Access, secrets_manager: SecretsManagerClient, table: RecoveryTable
) -> None:
    cut_over(order(members), members, secrets_manager, table, NOW)
    for runs in (1, 2):
        verified = verify(access, members.members, table)
        assert verified.member == PRIMARY
        assert verified.written_at.endswith("Z")
        assert "/" in verified.lsn
        with members.open() as session:
            assert session.run("SELECT epoch, runs FROM recovery.verification", 5) == [[2, runs]]


def test_a_primary_that_does_not_take_writes_fails_verification(
    members: Pair, access: Access, secrets_manager: SecretsManagerClient, table: RecoveryTable
) -> None:
    with pytest.raises(VerificationFailed, match=r"citizens-2-test at .* keeps no write"):
        verify(access, members.members, table)


def test_a_write_that_is_not_there_afterwards_fails_verification(
    members: Pair,
    access: Access,
    secrets_manager: SecretsManagerClient,
    table: RecoveryTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut_over(order(members), members, secrets_manager, table, NOW)
    real = Session.run

    def forget(self: Session, sql: str, seconds: float, **parameters: object) -> Any:
        rows = real(self, sql, seconds, **parameters)
        return [] if "FROM recovery.verification" in sql else rows

    monkeypatch.setattr(Session, "run", forget)
    with pytest.raises(VerificationFailed, match="did not give back"):
        verify(access, members.members, table)


@contextlib.contextmanager
def slow_to_sign_in_to() -> Iterator[Endpoint]:
    def offer_tls(accepted: socket.socket) -> None:
        accepted.recv(8)
        accepted.sendall(b"S")
        accepted.recv(1 << 16)
        time.sleep(2)

    with server(offer_tls) as endpoint:
        yield endpoint


# -- the look at one member -------------------------------------------------------------------------------------------


def test_a_look_tells_primary_standby_and_nobody_apart(members: Pair, access: Access) -> None:
    primary = look(access, members.primary, 2)
    assert (primary.reachable, primary.in_recovery, primary.error) == (True, False, None)
    assert primary.lsn
    assert look(access, members.standby, 2).in_recovery is True
    members.fault(PRIMARY, Fault("cut"))
    nobody = look(access, members.primary, 2)
    assert (nobody.reachable, nobody.in_recovery, nobody.lsn) == (False, None, None)
    assert "answered none of several attempts" in str(nobody.error)


def test_a_fence_is_not_shown_by_a_server_that_refuses_the_sign_in(members: Pair, access: Access) -> None:
    seen = look(Access(access.database, "citizens_witness", lambda *_: "no token"), members.primary, 2)
    assert seen.reachable
    assert 'PAM authentication failed for user "citizens_witness"' in str(seen.error)
    with slow_to_sign_in_to() as endpoint:
        seen = look(access, endpoint, 0.5)
        assert seen.reachable, "an application that waits longer may get in"
    members.gate.closed.add(PRIMARY)
    began = time.monotonic()
    assert not look(access, members.primary, 5).reachable
    assert time.monotonic() - began < 1.5, "silence is known in a second, however long a sign-in may take"
    assert not look(access, Endpoint("127.0.0.1", 1), 0.3).reachable
