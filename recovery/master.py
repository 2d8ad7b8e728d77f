"""Signing in as the database's main user, with whichever of the secret's passwords the server has. Rotation only."""

from __future__ import annotations

from collections.abc import Iterable

from recovery.connection import NOT_ADMITTED, Database, Refused, Session
from recovery.members import Endpoint
from recovery.secret import Secret


class NoPasswordWorks(Exception):
    """The server accepts none of the passwords the secret holds."""


def open_first(
    endpoint: Endpoint, database: Database, versions: Iterable[Secret], seconds: float, application: str
) -> Session:
    """A session by the first version the server accepts, `seconds` each; NoPasswordWorks when it accepts none."""
    tried = {}
    for credentials in dict.fromkeys(version.credentials for version in versions):
        try:
            return Session.open(endpoint, database, credentials, seconds, application)
        except Refused as refused:
            if refused.sqlstate not in NOT_ADMITTED:
                raise
            tried[credentials] = refused
    reasons = "; ".join(dict.fromkeys(str(refused) for refused in tried.values()))
    raise NoPasswordWorks(
        f"{endpoint} accepts no password of the secret, {len(tried)} tried ({reasons}); set the master password in RDS "
        "to the secret's current one, then try again."
    )
