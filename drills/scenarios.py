"""The failures that a drill can cause."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """A failure on purpose: what it does, in one sentence, and how the local cloud is asked for it."""

    name: str
    description: str
    cause: Callable[[str, Mapping[str, str]], str]


def _lose_primary(control: str, outputs: Mapping[str, str]) -> str:
    primary = outputs["Member1Identifier"]
    post(f"{control}/rds/{primary}/lose")
    return f"{primary} and its Multi-AZ copy were killed, their storage is gone"


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "primary-lost",
            "The primary and its Multi-AZ copy are lost for good; RDS reports it as failed.",
            _lose_primary,
        ),
    )
}


def post(url: str, body: Mapping[str, object] | None = None, method: str = "POST") -> None:
    """Ask the local cloud's control API for something; raises urllib's HTTPError with its answer when it refuses."""
    request = urllib.request.Request(  # noqa: S310  (the local cloud's own address)
        url, data=json.dumps(body or {}).encode(), method=method, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        answer.read()
