"""The two DB instances and where they answer. Which of them is primary is a matter of `roles`, never of a name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass


class MembersMalformed(ValueError):
    """The description of the members is not two identifiers with host and port."""


@dataclass(frozen=True)
class Endpoint:
    """Where a member answers: DNS name and TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Member:
    """One DB instance: its RDS identifier and endpoint."""

    identifier: str
    endpoint: Endpoint


Members = Mapping[str, Member]


def parse(text: str) -> dict[str, Member]:
    """Members from JSON `{"<identifier>": {"host": "...", "port": 5432}, ...}`; exactly two or MembersMalformed."""
    try:
        members = {
            identifier: Member(identifier, Endpoint(str(place["host"]), int(place["port"])))
            for identifier, place in json.loads(text).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MembersMalformed(
            f"MEMBERS must be JSON like {{identifier: {{host, port}}}}, but reading it gave {error!r}; deploy again."
        ) from error
    if len(members) != 2:
        raise MembersMalformed(f"MEMBERS must name two members, but it names {len(members)}; deploy again.")
    return members


def at(members: Members, host: str, port: int) -> Member | None:
    """The member that answers at host and port, if any."""
    return next((member for member in members.values() if member.endpoint == Endpoint(host, port)), None)
