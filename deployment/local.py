"""The local cloud as a place to deploy to: start it, bootstrap it, give it the secret that the agency has."""

from __future__ import annotations

import json
import secrets
import string
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployment.account import Account
from deployment.cdk import ROOT, Cdk
from deployment.problem import Problem

DEFAULT_STATE = ROOT / ".local-cloud"
MASTER_USER = "citizens_admin"
AGENCY_SECRET = "citizens/{suffix}/database"  # noqa: S105  (a name)


def up(state: Path, environment: Mapping[str, str], permissions: Path | None = None) -> None:
    """Start the local cloud of a state folder, or find it running. Raises Problem with the log's end when it cannot.

    `permissions` is a file for what every role asked for, written when it stops.
    """
    recording = [] if permissions is None else ["--permissions", str(permissions)]
    _local_cloud(["up", "--state", str(state), "--detach", *recording], environment)


def down(state: Path, environment: Mapping[str, str]) -> None:
    """Stop the local cloud of a state folder and remove all that it left; one that does not run is down already."""
    _local_cloud(["down", "--state", str(state)], environment)


def environment_of(state: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that uses the local cloud of a state folder. Raises Problem when it does not run."""
    file = state / "environment"
    if not file.exists():
        raise Problem(f"The local cloud is not running ({file} does not exist): start it with make local-up.")
    # Nothing that points at a real account may reach a program that is meant for the local cloud.
    clean = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    pairs = (line.partition("=") for line in file.read_text(encoding="utf-8").splitlines() if "=" in line)
    return clean | {name: value for name, _, value in pairs}


def bootstrap(environment: Mapping[str, str], log: Path) -> None:
    """Bootstrap the local cloud for CDK, which an account needs once before the first deploy."""
    Cdk("bootstrap", environment, log).bootstrap(environment["CDK_DEFAULT_ACCOUNT"], environment["CDK_DEFAULT_REGION"])


def play_agency(environment: Mapping[str, str], suffix: str) -> None:
    """Create the secret that the agency has in its account before an environment is deployed, if it is not there.

    Only under its usual name: a secret that a setting names is expected to exist.
    """
    name = AGENCY_SECRET.format(suffix=suffix)
    client = Account(environment).client("secretsmanager")
    alphabet = string.ascii_letters + string.digits
    value = {"username": MASTER_USER, "password": "".join(secrets.choice(alphabet) for _ in range(32))}
    try:
        client.create_secret(Name=name, SecretString=json.dumps(value))
    except client.exceptions.ResourceExistsException:
        return


@dataclass(frozen=True)
class System:
    """A system that is deployed in a local cloud of its own."""

    account: Account
    outputs: Mapping[str, str]
    cdk: Cdk


@contextmanager
def system(suffix: str, environment: Mapping[str, str]) -> Iterator[System]:
    """A system of that suffix in a local cloud of its own; nothing of it is left afterwards.

    The log of its deploy, `reports/logs/<suffix>.log`, stays when something failed. Raises Problem.
    """
    state, log = ROOT / f".local-cloud-{suffix}", ROOT / "reports" / "logs" / f"{suffix}.log"
    try:
        up(state, environment)
        target = environment_of(state, environment)
        bootstrap(target, log)
        cdk = Cdk(suffix, target, log)
        cdk.synth()
        play_agency(target, suffix)
        yield System(Account(target), cdk.deploy(), cdk)
    finally:
        down(state, environment)
        Cdk(suffix, environment).discard()
    log.unlink(missing_ok=True)


def not_honoured(environment: Mapping[str, str]) -> list[str]:
    """One line for each property of a deployed template that the local cloud accepts without honouring it."""
    with urllib.request.urlopen(f"{environment['LOCAL_CLOUD_URL']}/status", timeout=30) as answer:  # noqa: S310
        features = json.load(answer)["unsupported"]
    return sorted({f"{each['type']} {each['property']}: {each['reason']}" for each in features})


def _local_cloud(arguments: list[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local_cloud", *arguments],
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        # Out of the terminal's reach: Ctrl-C is for the caller, who then stops the local cloud in good order.
        start_new_session=True,
    )
    if done.returncode != 0:
        raise Problem(f"The local cloud failed:\n{done.stdout.strip()}")
