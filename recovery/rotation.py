"""Rotation of the secret's password in the four steps Secrets Manager calls. Each may be repeated or cut short.

Which password the server has is never assumed but tried: this rotation's, the current one, and one that an earlier
rotation left behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError
from pg8000.native import identifier, literal

from recovery import incident, scram
from recovery.connection import WRONG_PASSWORD, Database, Refused, Session
from recovery.secret import CURRENT, PENDING, Secret, SecretMissing, SecretUnusable, check, parse, read
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

SIGN_IN_SECONDS = 5.0
PASSWORD_LENGTH = 32
EXCLUDED_CHARACTERS = "/\"@'\\ "
"""What RDS refuses (slash, double quote, at sign, space), and what people quote wrongly (single quote, backslash)."""


class RotationRefused(Exception):
    """The rotation must not go on now; AWSCURRENT keeps working."""


class NoPasswordWorks(Exception):
    """The server accepts none of the passwords the secret holds."""


class Rotation:
    """One rotation: the secret, and the token that is its new version's id."""

    def __init__(
        self, client: SecretsManagerClient, database: Database, table: RecoveryTable, secret_id: str, token: str
    ) -> None:
        self._client = client
        self._database = database
        self._table = table
        self._secret_id = secret_id
        self._token = token

    def step(self, name: str, now: float) -> None:
        """createSecret, setSecret, testSecret or finishSecret; RotationRefused or NoPasswordWorks say why not."""
        steps = {
            "createSecret": self.create,
            "setSecret": self.set,
            "testSecret": self.test,
            "finishSecret": self.finish,
        }
        if name not in steps:
            raise RotationRefused(f"{name} is not a step of a rotation; expected one of {', '.join(steps)}.")
        if CURRENT in self._stages():
            return  # finished already: Secrets Manager has not heard our answer
        if name != "testSecret":
            self._refuse_during_incident(now)
        steps[name]()

    def create(self) -> None:
        """Put the new version under AWSPENDING, with a new password or the one an unfinished rotation has set."""
        if self._pending() is not None:
            return
        current = read(self._client, self._secret_id)
        left = self._left_behind(current)
        replacement = current.with_password(left or self._new_password())
        self._client.put_secret_value(
            SecretId=self._secret_id,
            ClientRequestToken=self._token,
            SecretString=replacement.text(),
            VersionStages=[PENDING],
        )

    def set(self) -> None:
        """Give the server the new password, unless it has it."""
        pending = self._expect_pending()
        current = read(self._client, self._secret_id)
        self._refuse_if_moved(current, pending)
        with self._session(current, [pending, current]) as session:
            if session.credentials == pending.credentials:
                return
            # The verifier is no secret in the server's log; a literal, because ALTER ROLE takes no parameters.
            user, stored = identifier(pending.credentials.username), scram.verifier(pending.credentials.password)
            session.run(f"ALTER ROLE {user} PASSWORD {literal(stored)}", SIGN_IN_SECONDS)

    def test(self) -> None:
        """Sign in with the new password.

        Secrets Manager also calls this step alone when a schedule is attached without rotating at once; its AWSPENDING
        is then a copy of the current version, empty, or not there, and the current one is what can be tested.
        """
        current = read(self._client, self._secret_id)
        tested = self._pending() or current
        with self._session(current, [tested]) as session:
            session.run("SELECT 1", SIGN_IN_SECONDS)

    def finish(self) -> None:
        """Make the new version AWSCURRENT; the label moves only from the version read: a cut-over is never undone."""
        pending = self._expect_pending()
        current = read(self._client, self._secret_id)
        self._refuse_if_moved(current, pending)
        self._client.update_secret_version_stage(
            SecretId=self._secret_id,
            VersionStage=CURRENT,
            MoveToVersionId=self._token,
            RemoveFromVersionId=current.version,
        )
        # A label that stays behind makes Secrets Manager believe that a rotation is under way.
        with contextlib.suppress(ClientError):
            self._client.update_secret_version_stage(
                SecretId=self._secret_id, VersionStage=PENDING, RemoveFromVersionId=self._token
            )

    def _stages(self) -> list[str]:
        stages = self._client.describe_secret(SecretId=self._secret_id).get("VersionIdsToStages", {})
        return stages.get(self._token, [])

    def _pending(self) -> Secret | None:
        """This token's version, if it is there and holds a usable value."""
        try:
            answer = self._client.get_secret_value(
                SecretId=self._secret_id, VersionId=self._token, VersionStage=PENDING
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in ("ResourceNotFoundException", "InvalidRequestException"):
                return None
            raise
        value = answer.get("SecretString", "")
        return None if check(value, rds_rules=False) else parse(value, self._token)

    def _expect_pending(self) -> Secret:
        pending = self._pending()
        if pending is None:
            raise RotationRefused(
                f"Version {self._token} of {self._secret_id} is not AWSPENDING or has no password; rotate again."
            )
        return pending

    def _left_behind(self, current: Secret) -> str | None:
        """The password of an unfinished rotation that the server has taken already."""
        try:
            left = read(self._client, self._secret_id, PENDING)
        except (SecretMissing, SecretUnusable):
            return None
        if left.credentials == current.credentials:
            return None
        with self._session(current, [current, left]) as session:
            return left.credentials.password if session.credentials == left.credentials else None

    def _new_password(self) -> str:
        return self._client.get_random_password(
            PasswordLength=PASSWORD_LENGTH, ExcludeCharacters=EXCLUDED_CHARACTERS, RequireEachIncludedType=True
        )["RandomPassword"]

    def _session(self, current: Secret, candidates: Iterable[Secret]) -> Session:
        """Signed in at the current host with the first password that works."""
        tried = 0
        for candidate in candidates:
            try:
                return Session.open(
                    current.endpoint, self._database, candidate.credentials, SIGN_IN_SECONDS, "citizens-rotation"
                )
            except Refused as refused:
                if refused.sqlstate not in WRONG_PASSWORD:
                    raise
                tried += 1
        raise NoPasswordWorks(
            f"{current.endpoint} refuses {current.credentials.username} with every password of {self._secret_id} "
            f"({tried}); set the master password in RDS to the secret's current one, then rotate again."
        )

    def _refuse_if_moved(self, current: Secret, pending: Secret) -> None:
        def rest(secret: Secret) -> dict[str, object]:
            return {name: value for name, value in secret.fields.items() if name != "password"}

        if rest(current) != rest(pending):
            raise RotationRefused(
                f"{self._secret_id} has changed since this rotation began (it points at {current.endpoint} now); start "
                "the rotation again."
            )

    def _refuse_during_incident(self, now: float) -> None:
        lease = incident.read_lease(self._table)
        if lease is not None and lease.held(now):
            raise RotationRefused(
                f"Incident {lease.incident} of epoch {lease.epoch} holds the lease, and no rotation runs during a "
                "failover; Secrets Manager tries again later."
            )
