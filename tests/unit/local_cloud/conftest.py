import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local_cloud.__main__ import main as run_command_line
from local_cloud.certificates import CertificateAuthority
from local_cloud.fleet import Caller, Delays, Fleet, InstanceSpec, InstanceView, RdsEvent
from tests.unit.local_cloud.running_cloud import RunningCloud

PASSWORD = "a-Password-1"
SWIFT = Delays(
    promotion_seconds=0.3,
    multi_az_failover_seconds=0.3,
    failed_after_seconds=0.3,
    reboot_seconds=0.1,
    backing_up_seconds=0,
)
APPLICATION = Caller(allowed=True, kind="applications", name="test")


@dataclass
class Guard:
    """Admission that the test decides on."""

    callers: dict[int, Caller] = field(default_factory=dict)
    everyone: Caller = APPLICATION
    asked: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)

    def __call__(
        self,
        identifier: str,
        security_groups: tuple[str, ...],
        port: int,
        peer: tuple[str, int],
        local: tuple[str, int],
    ) -> Caller:
        self.asked.append((identifier, security_groups, port))
        if "sg-closed" in security_groups:
            return Caller(allowed=False, kind="applications", name="nobody")
        return self.callers.get(peer[1], self.everyone)


@dataclass
class Harness:
    """A fleet, and what a client needs to talk to it."""

    fleet: Fleet
    authority: CertificateAuthority
    state: Path
    guard: Guard
    events: list[RdsEvent]
    _happened: threading.Condition = field(default_factory=threading.Condition)

    def spec(self, identifier: str, *, multi_az: bool = False, **changes: Any) -> InstanceSpec:
        values: dict[str, Any] = {
            "identifier": identifier,
            "master_username": "citizens_admin",
            "master_password": PASSWORD,
            "database": "citizens",
            "port": 5432,
            "multi_az": multi_az,
            "parameters": {"rds.logical_replication": "1"},
            "engine_version": "18.6",
            "security_groups": ("sg-open",),
            "availability_zones": ("eu-central-2a", "eu-central-2c"),
            "deletion_protection": False,
        }
        return InstanceSpec(**(values | changes))

    def uri(self, *identifiers: str, password: str = PASSWORD, **options: str) -> str:
        views = [self.fleet.describe(identifier) for identifier in identifiers]
        hosts = ",".join(f"{view.endpoint_address}:{view.endpoint_port}" for view in views)
        defaults = {"sslmode": "verify-full", "sslrootcert": str(self.authority.bundle), "connect_timeout": "3"}
        query = "&".join(f"{name}={value}" for name, value in (defaults | options).items())
        return f"postgresql://citizens_admin:{password}@{hosts}/citizens?{query}"

    def connect(
        self, *identifiers: str, password: str = PASSWORD, **options: str
    ) -> "psycopg.Connection[tuple[Any, ...]]":
        return psycopg.connect(self.uri(*identifiers, password=password, **options), autocommit=True)

    def connect_when_possible(self, *identifiers: str, **options: str) -> "psycopg.Connection[tuple[Any, ...]]":
        connections: list[psycopg.Connection[tuple[Any, ...]]] = []

        def connected() -> bool:
            try:
                connections.append(self.connect(*identifiers, **options))
            except psycopg.OperationalError:
                return False
            return True

        eventually(connected)
        return connections[0]

    def events_of(self, identifier: str) -> list[str]:
        return [event.event_id[-4:] for event in self.events if event.source_identifier == identifier]

    def becomes(self, identifier: str, condition: Callable[[InstanceView], bool]) -> InstanceView:
        eventually(lambda: condition(self.fleet.describe(identifier)))
        return self.fleet.describe(identifier)

    def has_copy(self, identifier: str) -> bool:
        """Whether commits are synchronous again."""
        with self.connect(identifier) as connection:
            row = connection.execute("SELECT current_setting('synchronous_standby_names')").fetchone()
        return row == ("rds_multi_az",) and len(self.fleet.describe(identifier).processes) == 2

    def clear(self) -> None:
        for identifier in reversed(self.fleet.identifiers()):
            self.fleet.modify(identifier, deletion_protection=False)
            self.fleet.delete(identifier)
        self.events.clear()
        self.fleet.delays = SWIFT


def eventually(condition: Callable[[], bool], patience: float = 15.0) -> None:
    """Wait until a condition holds; fails when it never does."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that every account may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="local-cloud-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def authority(open_folder: Path) -> CertificateAuthority:
    return CertificateAuthority.open(open_folder / "authority")


@pytest.fixture(scope="session")
def shared_harness(open_folder: Path, authority: CertificateAuthority) -> Iterator[Harness]:
    events: list[RdsEvent] = []
    guard = Guard()
    fleet = Fleet(open_folder / "fleet", authority, on_event=events.append, admission=guard, delays=SWIFT)
    yield Harness(fleet, authority, open_folder / "fleet", guard, events)
    fleet.close()


@pytest.fixture
def harness(shared_harness: Harness) -> Iterator[Harness]:
    """The shared fleet, without instances before and after the test."""
    shared_harness.guard.asked.clear()
    yield shared_harness
    shared_harness.clear()


@pytest.fixture(scope="session")
def cloud(open_folder: Path) -> Iterator[RunningCloud]:
    """A local cloud of its own process, started and stopped by the command line."""
    state = open_folder / "cloud"
    assert run_command_line(["up", "--state", str(state), "--detach"]) == 0
    lines = (state / "environment").read_text().splitlines()
    yield RunningCloud(state, dict(line.split("=", 1) for line in lines))
    assert run_command_line(["down", "--state", str(state)]) == 0
    assert not state.exists()
