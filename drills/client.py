"""Connects as an application of the agency does: the deployed writer URI, the credentials of the secret, TLS
verify-full."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from deployment.account import Account

CONNECT_TIMEOUT_SECONDS = 2
"""libpq's smallest; it counts for each host of the URI."""


@dataclass(frozen=True)
class Application:
    """An application's way to the database."""

    account: Account
    outputs: Mapping[str, str]

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to whichever member takes writes, in autocommit mode. The secret is read each time, as it may
        be rotated."""
        return self._connect(self.outputs["WriterUri"])

    def connect_reader(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to the standby where there is one, else to the primary."""
        return self._connect(self.outputs["ReaderUri"])

    def credentials(self) -> tuple[str, str]:
        """User name and password as the secret has them now."""
        answer = self.account.client("secretsmanager").get_secret_value(SecretId=self.outputs["SecretArn"])
        value = json.loads(answer["SecretString"])
        return value["username"], value["password"]

    def _connect(self, uri: str) -> psycopg.Connection[tuple[object, ...]]:
        user, password = self.credentials()
        return psycopg.connect(
            uri,
            user=user,
            password=password,
            sslrootcert=self.account.environment["PGSSLROOTCERT"],
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            keepalives_idle=5,
            tcp_user_timeout=5000,
            application_name="citizens-drill",
            autocommit=True,
        )
