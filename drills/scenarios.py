"""The failures that a drill can cause, and what must come of each."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Cause = Callable[[str, Mapping[str, str]], str]
"""Causes a failure through the local cloud's control API (its URL, the outputs); says what it did."""


@dataclass(frozen=True)
class Scenario:
    """A failure on purpose.

    `promotes`: whether the standby must take over, which is checked; a promotion that was not needed is a failure too.
    `expects_outage`: whether clients notice. `settings`: environment variables of the settings that the system is
    deployed with. `cause` is None where a client does the harm, which the drill then is.
    """

    name: str
    description: str
    cause: Cause | None
    promotes: bool
    expects_outage: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)


def _post(path: str, role: str, what: str, body: Mapping[str, object] | None = None) -> Cause:
    """A cause that asks for `path` of the member that has a role at the start of the drill."""
    output = {"primary": "Member1Identifier", "standby": "Member2Identifier"}[role]

    def cause(control: str, outputs: Mapping[str, str]) -> str:
        member = outputs[output]
        post(f"{control}/rds/{member}/{path}", body)
        return what.format(member=member)

    return cause


SHORT_GRACE = {"MULTI_AZ_GRACE_SECONDS": "10"}
"""For losses that RDS does not notice, which cost the grace: not the 150 s that AWS's own failover needs."""

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "primary-lost",
            "The primary and its Multi-AZ copy are lost for good; RDS reports it as failed. The standby takes over.",
            _post("lose", "primary", "{member} and its Multi-AZ copy were killed, their storage is gone"),
            promotes=True,
        ),
        Scenario(
            "primary-crashed",
            "The primary's server dies. RDS fails over to its Multi-AZ copy, and nothing is promoted.",
            _post("kill", "primary", "the server of {member} was killed"),
            promotes=False,
        ),
        Scenario(
            "primary-cut-off",
            "Nobody reaches the primary, and RDS does not notice. After the grace the standby takes over.",
            _post("endpoint", "primary", "{member} was cut off from everyone", {"fault": "cut"}),
            promotes=True,
            settings=SHORT_GRACE,
        ),
        Scenario(
            "primary-hung",
            "The primary keeps its connections and answers nobody. After the grace the standby takes over.",
            _post("endpoint", "primary", "{member} hangs for everyone", {"fault": "hang"}),
            promotes=True,
            settings=SHORT_GRACE,
        ),
        Scenario(
            "standby-lost",
            "The standby and its Multi-AZ copy are lost. Clients notice nothing, and nothing is promoted.",
            _post("lose", "standby", "{member} and its Multi-AZ copy were killed, their storage is gone"),
            promotes=False,
            expects_outage=False,
        ),
        Scenario(
            "table-dropped",
            "Someone drops a table, and clients go on. A restore to just before it, beside the members, has the table.",
            None,
            promotes=False,
            expects_outage=False,
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
