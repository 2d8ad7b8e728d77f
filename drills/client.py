"""Connects as an application of the agency does: the deployed writer URI, the credentials of the secret, TLS
verify-full."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict

from deployment.account import Account
from deployment.cdk import ROOT

CONNECT_TIMEOUT_SECONDS = 2
"""libpq's smallest; it counts for each host of the URI."""


@dataclass(frozen=True)
class Application:
    """An application's way to the database."""

    account: Account
    outputs: Mapping[str, str]

    @property
    def certificate_authority(self) -> str:
        """The bundle that the members' certificates are checked with: libpq's own variable, else the region's that is
        shipped."""
        return self.account.environment.get("PGSSLROOTCERT") or str(ROOT / "functions" / "rds-ca-eu-central-2.pem")

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to whichever member takes writes, in autocommit mode. The secret is read each time, as it may
        be rotated."""
        return self._connect(self.outputs["WriterUri"])

    def connect_reader(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to the standby where there is one, else to the primary."""
        return self._connect(self.outputs["ReaderUri"])

    def connect_member(
        self, member: int, *, password: str | None = None, sslmode: str = "verify-full"
    ) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to member 1 or 2 whatever its role, with a password other than the secret's if one is given."""
        addresses = conninfo_to_dict(self.outputs["WriterUri"])
        host, port = (str(addresses[key]).split(",")[member - 1] for key in ("host", "port"))
        user, current = self.credentials()
        return psycopg.connect(
            host=host,
            port=port,
            dbname=addresses["dbname"],
            user=user,
            password=password or current,
            sslmode=sslmode,
            sslrootcert=self.certificate_authority,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            autocommit=True,
        )

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
            sslrootcert=self.certificate_authority,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            keepalives_idle=5,
            tcp_user_timeout=5000,
            application_name="citizens-drill",
            autocommit=True,
        )
