"""Signing in to the members without a password: a token is signed for each connection (IAM database authentication).

Nothing is asked of AWS for it: the token is a presigned request (Signature Version 4, service `rds-db`, action
`connect`) that the database checks. RDS user guide, "Connecting to your DB instance using IAM authentication".
"""

from __future__ import annotations

from collections.abc import Callable

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Signer

from recovery.connection import Credentials, Database, Session
from recovery.members import Endpoint

TOKEN_SECONDS = 900
"""RDS takes no token that is older; a connection that was signed in outlives its token."""

Tokens = Callable[[Endpoint, str], str]
"""The token for a database user at an endpoint."""


def token(signer: Signer, region: str, endpoint: Endpoint, user: str) -> str:
    """`<host>:<port>/?Action=connect&DBUser=<user>&X-Amz-…`, valid for 15 minutes."""
    request = AWSRequest("GET", f"https://{endpoint}/", params={"Action": "connect", "DBUser": user})
    SigV4QueryAuth(signer.get_frozen_credentials(), "rds-db", region, expires=TOKEN_SECONDS).add_auth(request)
    return str(request.url).removeprefix("https://")


class Access:
    """One database user's way to the members."""

    def __init__(self, database: Database, user: str, tokens: Tokens) -> None:
        self.database = database
        self.user = user
        self._tokens = tokens

    def open(self, endpoint: Endpoint, seconds: float, application: str) -> Session:
        """A session within `seconds`; raises what `Session.open` raises."""
        credentials = Credentials(self.user, self._tokens(endpoint, self.user))
        return Session.open(endpoint, self.database, credentials, seconds, application)
