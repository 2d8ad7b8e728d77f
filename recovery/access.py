"""Signing in to the members with what the secret holds now."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from recovery import secret
from recovery.connection import WRONG_PASSWORD, Credentials, Database, Refused, Session, sign_in
from recovery.members import Endpoint

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


class Access:
    """Credentials from the secret, kept until the server refuses them.

    A rotation that was cut short leaves a server that knows AWSPENDING's password already, so after a refusal both
    versions are read again and tried.
    """

    def __init__(self, client: SecretsManagerClient, secret_id: str, database: Database) -> None:
        self._client = client
        self._secret_id = secret_id
        self.database = database
        self.candidates: tuple[Credentials, ...] = ()

    def load(self, *, with_pending: bool = False) -> None:
        """Read the secret (again): AWSCURRENT, and AWSPENDING if asked for and there."""
        candidates = [secret.read(self._client, self._secret_id).credentials]
        if with_pending:
            with contextlib.suppress(secret.SecretMissing, secret.SecretUnusable):
                candidates.append(secret.read(self._client, self._secret_id, secret.PENDING).credentials)
        self.candidates = tuple(dict.fromkeys(candidates))

    def open(self, endpoint: Endpoint, seconds: float, application: str) -> Session:
        """A session within `seconds` per attempt; raises what `Session.open` raises."""
        if not self.candidates:
            self.load()
        try:
            return sign_in(endpoint, self.database, self.candidates, seconds, application)
        except Refused as refused:
            if refused.sqlstate not in WRONG_PASSWORD:
                raise
            tried = self.candidates
            self.load(with_pending=True)
            if self.candidates == tried:
                raise
        return sign_in(endpoint, self.database, self.candidates, seconds, application)
