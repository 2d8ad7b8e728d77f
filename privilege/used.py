"""What the roles asked for, as the local cloud has recorded it."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privilege.granted import short_name

FAILOVER = "citizens-failover-"
"""The machine's role, of which every environment has one; the suffix follows."""


@dataclass(frozen=True)
class Request:
    """A kind of request that was allowed: by which statement of which policy (its name) and on what resource."""

    short: str
    action: str
    policy: str
    statement: int
    resource: str


@dataclass(frozen=True)
class Denial:
    """A kind of request that was refused."""

    short: str
    action: str
    resource: str


@dataclass
class Usage:
    """Requests and denials with how often they occurred; those of several deployments can be added up."""

    allowed: Counter[Request] = field(default_factory=Counter)
    denied: Counter[Denial] = field(default_factory=Counter)

    def add(self, other: Usage) -> None:
        """Add another deployment's."""
        self.allowed += other.allowed
        self.denied += other.denied

    def count(self, short: str, policy: str, statement: int, action: str) -> int:
        """How often a statement allowed an action."""
        return sum(
            count
            for request, count in self.allowed.items()
            if (request.short, request.policy, request.statement, request.action) == (short, policy, statement, action)
        )

    def resources(self, short: str, policy: str, statement: int, action: str) -> set[str]:
        """The resources of the statement that it was used on."""
        return {
            request.resource
            for request in self.allowed
            if (request.short, request.policy, request.statement, request.action) == (short, policy, statement, action)
        }


def policy_name(arn: str, suffix: str) -> str:
    """A policy's name as it is in every environment."""
    return short_name(arn.rpartition("/")[2], suffix)


def parse(recorded: Mapping[str, Any], suffix: str) -> Usage:
    """The local cloud's record (`GET /_local/permissions`), of the roles of one environment."""
    usage = Usage()
    for role, entries in recorded["roles"].items():
        short = short_name(role, suffix)
        if short == role:
            continue
        for entry in entries:
            resource = str(entry["resource"])
            if entry["allowed"]:
                policy = policy_name(entry["policy"], suffix)
                usage.allowed[Request(short, entry["action"], policy, entry["statement"], resource)] += entry["count"]
            else:
                usage.denied[Denial(short, entry["action"], resource)] += entry["count"]
    return usage


def ask(control: str, suffix: str) -> Usage:
    """What has been recorded up to now by the local cloud with this control API."""
    with urllib.request.urlopen(f"{control}/permissions", timeout=30) as answer:  # noqa: S310
        return parse(json.load(answer), suffix)


def read(file: Path) -> Usage:
    """What a local cloud has written when it stopped, of every environment that was deployed there."""
    recorded = json.loads(file.read_text(encoding="utf-8"))
    usage = Usage()
    for role in recorded["roles"]:
        if role.startswith(FAILOVER):
            usage.add(parse(recorded, role.removeprefix(FAILOVER)))
    return usage
