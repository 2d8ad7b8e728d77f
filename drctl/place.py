"""Which environment a command is about: on AWS or in the local cloud, found by the outputs of its deploy."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployment import local, outputs
from deployment.account import Account
from deployment.configuration import configured
from deployment.problem import Problem
from recovery.members import Endpoint
from stacks.names import DATABASE_PORT, Names

_HOSTS = re.compile(r"://(?P<hosts>[^/]+)/")


@dataclass(frozen=True)
class Place:
    """An environment: its account, suffix, and the flat outputs of its deploy (none when they are not at hand)."""

    account: Account
    suffix: str
    outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> Names:
        """Every physical name."""
        return Names(self.suffix)

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Where each member answers, as far as the outputs tell."""
        found = _HOSTS.search(self.outputs.get("WriterUri", ""))
        if found is None:
            return {}
        places = [each.rpartition(":") for each in found["hosts"].split(",")]
        ends = [Endpoint(host, int(port or DATABASE_PORT)) for host, _, port in places]
        return dict(zip(self.names.members, ends, strict=False))


def locate(
    environment: Mapping[str, str], *, path: Path | None, suffix: str | None, is_local: bool, state: Path
) -> Place:
    """The environment that the outputs of `path` describe, or those of `suffix`, or of the newest deploy.

    A suffix alone is enough where no outputs are at hand: names are made from it. Outputs say by their endpoints
    whether they are of the local cloud; credentials of a real account are then never used. Raises Problem or
    SettingsError.
    """
    if suffix is not None:
        configured({"environmentSuffix": suffix} if suffix else {})  # one sentence when it is malformed or empty
    given = path or (outputs.of_suffix(suffix) if suffix else outputs.FLAT_OUTPUTS)
    if path is None and suffix and not given.exists():
        found: Mapping[str, str] = {"EnvironmentSuffix": suffix}
    else:
        found = outputs.read(given)
    named = found.get("EnvironmentSuffix")
    if not named:
        raise Problem(f"{given} does not name an environment (EnvironmentSuffix): deploy again to write it.")
    if suffix and suffix != named:
        raise Problem(f"{given} describes {named}, not {suffix}: leave one of the two out.")
    rehearsed = _is_loopback(found.get("Member1Endpoint", ""))
    if is_local and found.get("Member1Endpoint") and not rehearsed:
        raise Problem(f"{given} describes {named} on AWS, not in the local cloud: leave --local out.")
    target = local.environment_of(state, environment) if is_local or rehearsed else environment
    account = Account(target)
    if "Member1Endpoint" not in found and not account.has_credentials():
        here = ", ".join(outputs.suffixes()) or "none"
        raise Problem(
            f"There are no outputs of {named} here (outputs of: {here}), and no credentials to ask AWS for it: give "
            "another suffix, --local for the local cloud, or credentials."
        )
    return Place(account, named, found)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
