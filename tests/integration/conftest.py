"""A deployed system to test: one deployed into a local cloud for this session, or the one that --outputs describes."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from deployment import local, outputs, work_tree
from deployment.account import Account
from deployment.cdk import ROOT, Cdk
from drills.client import Application

T = TypeVar("T")


@dataclass(frozen=True)
class Deployed:
    """What was deployed and how to reach it. `cdk` is None for a system that these tests did not deploy."""

    account: Account
    outputs: Mapping[str, str]
    cdk: Cdk | None

    @property
    def application(self) -> Application:
        return Application(self.account, self.outputs)

    @property
    def control(self) -> str:
        return self.account.environment["LOCAL_CLOUD_URL"]


@dataclass(frozen=True)
class Cloud:
    """A local cloud that looks like the agency's account before the first deploy."""

    state: Path
    environment: Mapping[str, str]


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with a_cloud(request.config.getoption("--permissions")) as made:
        yield made


@pytest.fixture(scope="session")
def steady_cloud() -> Iterator[Cloud]:
    """One whose clock nobody moves, as tests of the deployed system move the other's."""
    with a_cloud() as made:
        yield made


@contextmanager
def a_cloud(permissions: Path | None = None) -> Iterator[Cloud]:
    """A local cloud of one's own."""
    state = ROOT / f".local-cloud-test-{secrets.token_hex(2)}"
    try:
        local.up(state, os.environ, permissions)
        environment = local.environment_of(state, os.environ)
        local.bootstrap(environment, state / "bootstrap.log")
        yield Cloud(state, environment)
    finally:
        local.down(state, os.environ)


@pytest.fixture(scope="session")
def deployed(request: pytest.FixtureRequest) -> Iterator[Deployed]:
    given: Path | None = request.config.getoption("--outputs")
    if given is not None:
        yield Deployed(Account(os.environ), outputs.read(given), None)
        return
    with a_system(request.getfixturevalue("cloud")) as made:
        yield made


@contextmanager
def a_system(cloud: Cloud) -> Iterator[Deployed]:
    """A system deployed into a local cloud."""
    suffix = f"it-{secrets.token_hex(2)}"
    cdk = Cdk(suffix, cloud.environment, cloud.state / "cdk.log")
    cdk.synth()
    local.play_agency(cloud.environment, suffix)
    flat = cdk.deploy()
    outputs.write(flat, suffix)
    try:
        work_tree.write_down(Account(cloud.environment), flat["RecoveryTableName"], cdk)
        # Not the newest deploy's: other environments are deployed meanwhile.
        yield Deployed(Account(cloud.environment), outputs.read(outputs.of_suffix(suffix)), cdk)
    finally:
        outputs.forget(suffix)
        cdk.discard()


def eventually(look: Callable[[], T | None], within: float, what: str) -> T:
    """The first truthy answer of `look`, asked for until `within` seconds are over."""
    deadline = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {within:.0f} s"
        time.sleep(0.25)
