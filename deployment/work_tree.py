"""What is deployed from: the commit of the work tree, the plans in it, and what of both a deploy writes down."""

from __future__ import annotations

import hashlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from deployment.account import Account
from deployment.cdk import ROOT, Cdk
from recovery import drill, provenance
from recovery.clock import iso
from recovery.provenance import Provenance
from recovery.table import RecoveryTable

PLANS = (drill.PLAN, "docs/failover-machine.md")
"""What is rehearsed: a drill's record names the one that it followed."""


@dataclass(frozen=True)
class Plan:
    """The procedure that was rehearsed: the file's name, and its SHA-256."""

    name: str
    sha256: str


def commit_of(root: Path) -> str:
    """The commit of a work tree, with `-dirty` when it holds more than that; `unknown` outside of git."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--match", "no-tag"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def plan_of(path: Path) -> Plan:
    """The plan in a file. Raises OSError when it cannot be read."""
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    return Plan(name, hashlib.sha256(path.read_bytes()).hexdigest())


def write_down(account: Account, table_name: str, cdk: Cdk) -> Provenance:
    """Write into the environment's recovery table what was just deployed to it. Again, it replaces what was there."""
    plans = (plan_of(ROOT / name) for name in PLANS)
    deployed = Provenance(
        commit_of(ROOT), cdk.template_sha256(), iso(time.time()), {plan.name: plan.sha256 for plan in plans}
    )
    provenance.write(RecoveryTable(account.client("dynamodb"), table_name), deployed)
    return deployed
