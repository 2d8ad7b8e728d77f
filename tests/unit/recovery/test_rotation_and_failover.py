"""Rotation and failover at the same time: every order of the rotation's steps and those of the failover's that matter.

Two real servers. What a promotion does to passwords is done by copying the stored verifier from the primary to the
other server at that moment, as replication would have; or not since the rotation began, as when it lagged.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from recovery import incident, roles, secret
from recovery import rotation as rotating
from recovery.connection import Session
from recovery.cutover import CutOver, NotPromoted, pass_roles, point_secret
from recovery.master import NoPasswordWorks
from recovery.members import Endpoint, Member
from recovery.rotation import Rotation, RotationRefused
from recovery.secret import SecretContested
from recovery.table import RecoveryTable
from tests.unit.recovery.conftest import Pair, _spec

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

NOW = 1_800_000_000.0
FIRST = "The-First-Password-1"
STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
FAILOVER = ("lease", "promote", "point", "roles", "release")


def interleavings() -> Iterator[tuple[str, ...]]:
    """All 126 orders of both sequences, each in its own order."""
    length = len(STEPS) + len(FAILOVER)
    for places in itertools.combinations(range(length), len(FAILOVER)):
        failover, rotation = iter(FAILOVER), iter(STEPS)
        yield tuple(next(failover if place in places else rotation) for place in range(length))


@pytest.fixture
def servers(members: Pair) -> Iterator[dict[str, Member]]:
    """Two servers that take writes: the pair's primary, and another instance."""
    view = members.fleet.create(_spec("citizens-3-test"))
    other = Member("new", Endpoint(view.endpoint_address, view.endpoint_port))
    yield {"old": Member("old", members.primary), "new": other}
    members.fleet.delete("citizens-3-test")


class World:
    """One interleaving, begun afresh."""

    def __init__(
        self,
        members: Pair,
        servers: dict[str, Member],
        client: SecretsManagerClient,
        table: RecoveryTable,
        sessions: dict[str, Session],
        *,
        replicated: bool,
    ) -> None:
        self.members, self.servers, self.client, self.table = members, servers, client, table
        self.sessions, self.replicated = sessions, replicated
        self.database = members.database
        self.secret_id = f"citizens/{uuid.uuid4()}"
        self.token = str(uuid.uuid4())
        self.promoted = False
        for session in sessions.values():
            session.run(f"ALTER ROLE main_user PASSWORD '{FIRST}'", 5)
        place = servers["old"].endpoint
        fields = {"username": "main_user", "password": FIRST, "host": place.host, "port": place.port}
        client.create_secret(Name=self.secret_id, SecretString=json.dumps(fields))
        table._client.delete_item(TableName="recovery", Key={"id": {"S": "roles"}})
        table._client.delete_item(TableName="recovery", Key={"id": {"S": "lease"}})
        roles.create(table, "old", "new", NOW)
        self.began_with = self.verifier("old")

    def verifier(self, server: str) -> str:
        rows = self.sessions[server].run("SELECT rolpassword FROM pg_authid WHERE rolname = 'main_user'", 5)
        return str(rows[0][0])

    def rotate(self, step: str) -> None:
        Rotation(self.client, self.database, self.table, self.servers, self.secret_id, self.token).step(step, NOW)

    def act(self, step: str) -> None:
        order = CutOver("20270115T080000Z-abcd", 1, self.servers["new"], "old")
        match step:
            case "lease":
                assert incident.take_lease(self.table, 1, "a", NOW)
            case "promote":
                stored = self.verifier("old") if self.replicated else self.began_with
                self.sessions["new"].run(f"ALTER ROLE main_user PASSWORD '{stored}'", 5)
                self.promoted = True
            case "point":
                point_secret(order, self.client, self.secret_id, self.database, self.table)
            case "roles":
                pass_roles(order, self.table, NOW)
            case "release":
                self.table._client.delete_item(TableName="recovery", Key={"id": {"S": "lease"}})
            case _:
                # Secrets Manager calls no later step after one that failed. Here it does: that must do no harm either.
                with contextlib.suppress(RotationRefused, SecretContested, NoPasswordWorks):
                    self.rotate(step)

    def left_over(self) -> bool:
        """Whether Secrets Manager believes that a rotation is under way."""
        stages = self.client.describe_secret(SecretId=self.secret_id)["VersionIdsToStages"]
        return any("AWSPENDING" in held for held in stages.values())

    def works(self) -> bool:
        """Whether the password of AWSCURRENT signs in where AWSCURRENT points."""
        current = secret.read(self.client, self.secret_id)
        Session.open(current.endpoint, self.database, current.credentials, 5, "test").close()
        return current.endpoint == self.servers["new"].endpoint


@pytest.mark.parametrize("replicated", [True, False], ids=["replicated", "lagging"])
def test_every_order_of_rotation_and_failover_ends_with_one_working_password(
    members: Pair,
    servers: dict[str, Member],
    secrets_manager: SecretsManagerClient,
    table: RecoveryTable,
    monkeypatch: pytest.MonkeyPatch,
    replicated: bool,
) -> None:
    monkeypatch.setattr(rotating.Rotation, "_await_standby", lambda *_: None)  # no replication to wait for here
    monkeypatch.setattr(rotating, "_await_replication", lambda *_: None)
    sessions = {name: members.open(server.endpoint) for name, server in servers.items()}
    for session in sessions.values():
        session.run("DROP ROLE IF EXISTS main_user; CREATE ROLE main_user LOGIN SUPERUSER", 5)
    orders = list(interleavings())
    assert len(set(orders)) == 126
    if not replicated:  # that replication lags makes a difference for what was set before the promotion only
        orders = [order for order in orders if order.index("setSecret") < order.index("promote")]
    try:
        for order in orders:
            world = World(members, servers, secrets_manager, table, sessions, replicated=replicated)
            for step in order:
                world.act(step)
            assert world.works(), f"after {order} the secret points at the lost member"
            if world.left_over():
                # The rotation is taken up again with the same version, as Secrets Manager does, and ends.
                for step in STEPS:
                    world.rotate(step)
                assert not world.left_over(), f"after {order} a rotation is left over for ever"
                assert world.works(), order
    finally:
        for session in sessions.values():
            session.run("DROP ROLE main_user", 5)
            session.close()


def test_a_cut_over_before_the_promotion_changes_nothing(
    members: Pair, secrets_manager: SecretsManagerClient, table: RecoveryTable
) -> None:
    roles.create(table, "citizens-1-test", "citizens-2-test", NOW)
    place = members.primary
    fields = {"username": "agency", "password": "Correct-Horse-18", "host": place.host, "port": place.port}
    secrets_manager.create_secret(Name="s", SecretString=json.dumps(fields))
    order = CutOver("i", 1, members.members["citizens-2-test"], "citizens-1-test")
    with pytest.raises(NotPromoted):
        point_secret(order, secrets_manager, "s", members.database, table)
    assert secret.read(secrets_manager, "s").endpoint == place
