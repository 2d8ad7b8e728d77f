"""Two members as RDS would run them: real PostgreSQL clusters behind TLS endpoints, one replicating the other."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.credentials import Credentials as Signer
from moto import mock_aws

from local_cloud.certificates import CertificateAuthority
from local_cloud.endpoint import Caller, Fault
from local_cloud.fleet import Fleet, InstanceSpec
from recovery.access import Access
from recovery.access import token as token_for
from recovery.connection import Credentials, Database, Session, verify_full
from recovery.members import Endpoint, Member
from recovery.preparation import prepare
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from tests.unit.recovery.rehearsal import Rehearsal

MASTER = "agency"
PASSWORD = "Correct-Horse-18"
PRIMARY, STANDBY = "citizens-1-test", "citizens-2-test"


@dataclass
class Gate:
    """Lets every caller in, except those of an identifier that is closed."""

    closed: set[str] = field(default_factory=set)

    def __call__(
        self,
        identifier: str,
        security_groups: tuple[str, ...],
        port: int,
        peer: tuple[str, int],
        local: tuple[str, int],
    ) -> Caller:
        return Caller(identifier not in self.closed, "functions", "test")


def signed_for(identifier: str, address: tuple[str, int], user: str, token: str) -> bool:
    """Takes a token by what it is signed for; that the signature counts is the local cloud's test."""
    return token.startswith(f"{address[0]}:{address[1]}/?Action=connect&DBUser={user}&X-Amz-Algorithm=AWS4-HMAC-SHA256")


def tokens(endpoint: Endpoint, user: str) -> str:
    return token_for(Signer("testing", "testing"), "eu-central-2", endpoint, user)


@dataclass
class Pair:
    """The fleet and its two members, with what it takes to sign in to them."""

    fleet: Fleet
    gate: Gate
    bundle: Path
    members: dict[str, Member]

    @property
    def database(self) -> Database:
        return Database("citizens", verify_full(str(self.bundle)))

    @property
    def primary(self) -> Endpoint:
        return self.members[PRIMARY].endpoint

    @property
    def standby(self) -> Endpoint:
        return self.members[STANDBY].endpoint

    def open(
        self,
        endpoint: Endpoint | None = None,
        password: str = PASSWORD,
        user: str = MASTER,
        database: str = "citizens",
    ) -> Session:
        where = Database(database, self.database.tls)
        return Session.open(endpoint or self.primary, where, Credentials(user, password), 5.0, "test")

    def access(self, user: str) -> Access:
        """The way in of a function's database user."""
        return Access(self.database, user, tokens)

    def prepare(self) -> None:
        """Roles and tables of the functions, and the log's publication."""
        with self.open() as session:
            prepare(session)
        self.caught_up()

    def fault(self, identifier: str, fault: Fault) -> None:
        self.fleet.set_fault(identifier, fault)

    def caught_up(self) -> None:
        """Wait until the standby has replayed all that the primary has written."""
        with self.open() as primary, self.open(self.standby) as standby:
            ((lsn,),) = primary.run("SELECT pg_current_wal_lsn()::text", 5.0)
            deadline = time.monotonic() + 10
            while not standby.run("SELECT pg_last_wal_replay_lsn() >= CAST(:lsn AS pg_lsn)", 5.0, lsn=lsn)[0][0]:
                assert time.monotonic() < deadline, "the standby does not catch up"
                time.sleep(0.02)


def _spec(identifier: str) -> InstanceSpec:
    return InstanceSpec(
        identifier=identifier,
        master_username=MASTER,
        master_password=PASSWORD,
        database="citizens",
        port=5432,
        multi_az=False,
        parameters={"rds.logical_replication": "1", "rds.force_ssl": "1", "track_commit_timestamp": "1"},
        engine_version="18.6",
        security_groups=("sg-1",),
        availability_zones=("eu-central-2a", "eu-central-2c"),
        deletion_protection=False,
    )


def _pair(folder: Path) -> Pair:
    authority = CertificateAuthority.open(folder / "ca")
    gate = Gate()
    fleet = Fleet(folder / "state", authority, on_event=lambda event: None, admission=gate, tokens=signed_for)
    try:
        views = [fleet.create(_spec(PRIMARY)), fleet.create_replica(_spec(STANDBY), PRIMARY)]
    except BaseException:
        fleet.close()
        raise
    members = {
        view.identifier: Member(view.identifier, Endpoint(view.endpoint_address, view.endpoint_port)) for view in views
    }
    return Pair(fleet, gate, authority.bundle, members)


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """The members all tests share; roles never change."""
    # Not pytest's folder: PostgreSQL runs as another user when the tests run as root, and must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="citizens-recovery-"))
    folder.chmod(0o755)
    made = _pair(folder)
    yield made
    made.fleet.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def members(pair: Pair) -> Iterator[Pair]:
    """The members without faults, and without what an earlier test has left."""
    with pair.open() as session:
        session.run(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_type = 'logical'", 5
        )
        session.run("DROP EVENT TRIGGER IF EXISTS recovery_give_identity", 5)
        session.run("DROP PUBLICATION IF EXISTS citizens_log", 5)
        session.run("DROP SCHEMA IF EXISTS recovery CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public", 5)
    pair.prepare()
    yield pair
    pair.gate.closed.clear()
    for identifier in pair.members:
        pair.fault(identifier, Fault())


@pytest.fixture
def new_pair() -> Iterator[Pair]:
    """Members of its own for a test that changes roles."""
    folder = Path(tempfile.mkdtemp(prefix="citizens-recovery-"))
    folder.chmod(0o755)
    made = _pair(folder)
    yield made
    made.fleet.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """moto's AWS, empty."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-2")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with mock_aws():
        yield


@pytest.fixture
def dynamodb(aws: None) -> DynamoDBClient:
    client = boto3.client("dynamodb")
    client.create_table(
        TableName="recovery",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return client


@pytest.fixture
def table(dynamodb: DynamoDBClient) -> RecoveryTable:
    return RecoveryTable(dynamodb, "recovery")


@pytest.fixture
def secrets_manager(aws: None) -> SecretsManagerClient:
    return boto3.client("secretsmanager")


@pytest.fixture
def token() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def rehearsal(members: Pair, tmp_path: Path) -> Iterator[Rehearsal]:
    from tests.unit.recovery.rehearsal import Rehearsal

    made = Rehearsal(members, members.open(), tmp_path, [])
    yield made
    made.primary.close()
    with made.open("postgres") as elsewhere:
        for name in made.copies:
            elsewhere.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", 20)
