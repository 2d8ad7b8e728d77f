"""Rotation of the secret's password in the four steps Secrets Manager calls. Each may be repeated or cut short.

Which password the server has is never assumed but tried: the current one, this rotation's, and one that an earlier
rotation left behind. All fields but the password are the current version's at the moment of each step, so a rotation
that a cut-over has overtaken still ends, and never points the secret back.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError
from pg8000.native import identifier, literal

from recovery import incident, master, scram
from recovery.connection import NOT_ADMITTED, Database, Refused, Session, Unreachable
from recovery.members import Endpoint, Members, at
from recovery.secret import (
    CURRENT,
    PENDING,
    Secret,
    SecretContested,
    SecretMissing,
    SecretUnusable,
    check,
    named,
    parse,
    read,
    replace_current,
)
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

SIGN_IN_SECONDS = 5.0
REPLICATION_SECONDS = 15.0
"""How long a standby that answers may take to learn the new password."""
REFUSED_BY_RDS = '/"@ '


class RotationRefused(Exception):
    """The rotation must not go on now; AWSCURRENT keeps working."""


@dataclass(frozen=True)
class PasswordPolicy:
    """What Secrets Manager is asked for: `length` characters without `excluded` and without what RDS refuses."""

    length: int = 32
    excluded: str = "'\\"
    """By default what people quote wrongly."""


class Rotation:
    """One rotation: the secret, and the token that is its new version's id."""

    def __init__(
        self,
        client: SecretsManagerClient,
        database: Database,
        table: RecoveryTable,
        members: Members,
        secret_id: str,
        token: str,
        policy: PasswordPolicy = PasswordPolicy(),
    ) -> None:
        self._client = client
        self._database = database
        self._table = table
        self._members = members
        self._secret_id = secret_id
        self._token = token
        self._policy = policy

    def step(self, name: str, now: float) -> None:
        """createSecret, setSecret, testSecret or finishSecret. What keeps it from ending is raised as one sentence."""
        steps = {
            "createSecret": self.create,
            "setSecret": self.set,
            "testSecret": self.test,
            "finishSecret": self.finish,
        }
        if name not in steps:
            raise RotationRefused(f"{name} is not a step of a rotation; expected one of {', '.join(steps)}.")
        try:
            if self._finished():
                return  # Secrets Manager has not heard our answer
            if name != "testSecret":
                self._refuse_during_incident(now)
            steps[name]()
        except Refused as refused:
            raise RotationRefused(
                f"The database refused {name}: {refused}; give the secret's user the right to it, then rotate again."
            ) from refused

    def create(self) -> None:
        """Put the new version under AWSPENDING, with a new password or the one an unfinished rotation has set."""
        if self._pending() is not None:
            return
        current = self._current()
        left = self._left_behind(current)
        replacement = current.with_password(left or self._new_password())
        try:
            self._client.put_secret_value(
                SecretId=self._secret_id,
                ClientRequestToken=self._token,
                SecretString=replacement.text(),
                VersionStages=[PENDING],
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceExistsException":
                raise
            # Versions cannot be changed: this one would be in the way for ever.
            self._withdraw()
            raise RotationRefused(
                f"Version {self._token} of {self._secret_id} was AWSPENDING with a value of no use; it has been "
                "withdrawn: rotate again."
            ) from error

    def set(self) -> None:
        """Give the server the new password, unless it has it."""
        current = self._current()
        wanted = self._wanted(current)
        problems = check(wanted.text())
        if problems:
            self._withdraw()
            raise RotationRefused(f"The new version is withdrawn, rotate again: {' '.join(problems)}")
        with self._session(current, current, wanted) as session:
            if session.credentials == wanted.credentials:
                return
            # The verifier is no secret in the server's log; a literal, because ALTER ROLE takes no parameters.
            user, stored = identifier(wanted.credentials.username), scram.verifier(wanted.credentials.password)
            session.run(f"ALTER ROLE {user} PASSWORD {literal(stored)}", SIGN_IN_SECONDS)

    def test(self) -> None:
        """Sign in with the new password, at the standby too once it has replicated.

        Secrets Manager also calls this step alone when a schedule is attached without rotating at once; its AWSPENDING
        is then a copy of the current version, empty, or not there, and the current one is what can be tested.
        """
        current = self._current()
        tested = current if self._pending() is None else self._wanted(current)
        with self._session(current, tested) as session:
            _await_replication(session)
        for member in self._members.values():
            if member.endpoint != current.endpoint:
                self._await_standby(member.endpoint, tested)

    def finish(self) -> None:
        """Make the new version AWSCURRENT; the label moves only from the version read: a cut-over is never undone."""
        current = self._current()
        wanted = self._wanted(current)
        made = self._made()
        # Whatever was called before and answered what: a password that does not work never becomes AWSCURRENT.
        self._session(current, wanted).close()
        if made is not None and wanted.fields == made.fields:
            self._move_label(current)
        elif wanted.fields != current.fields:
            token = hashlib.sha256(f"rotation {self._token} {current.version}".encode()).hexdigest()
            replace_current(self._client, self._secret_id, current, wanted, token)
        self._withdraw()

    def _finished(self) -> bool:
        """Whether this rotation has ended: its version is AWSCURRENT, or its password is in a version that is newer."""
        stages = self._stages()
        if CURRENT in stages or PENDING in stages:
            return CURRENT in stages
        made = self._made()
        return made is not None and made.credentials == read(self._client, self._secret_id).credentials

    def _move_label(self, current: Secret) -> None:
        try:
            self._client.update_secret_version_stage(
                SecretId=self._secret_id,
                VersionStage=CURRENT,
                MoveToVersionId=self._token,
                RemoveFromVersionId=current.version,
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidParameterException":
                raise
            raise SecretContested(
                f"The secret {self._secret_id} was changed by somebody else at the same time; repeat the step."
            ) from error

    def _withdraw(self) -> None:
        """Take AWSPENDING away: where it stays behind, Secrets Manager believes that a rotation is under way."""
        with contextlib.suppress(ClientError):
            self._client.update_secret_version_stage(
                SecretId=self._secret_id, VersionStage=PENDING, RemoveFromVersionId=self._token
            )

    def _stages(self) -> list[str]:
        try:
            described = self._client.describe_secret(SecretId=self._secret_id)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            raise SecretMissing(
                f"The secret {self._secret_id} was not found; restore it, then rotate again."
            ) from error
        return described.get("VersionIdsToStages", {}).get(self._token, [])

    def _current(self) -> Secret:
        """AWSCURRENT; RotationRefused when it does not lead to one of the members."""
        current = read(self._client, self._secret_id)
        place = current.endpoint
        if at(self._members, place.host, place.port) is None:
            raise RotationRefused(
                f"{self._secret_id} points at {place}, which is neither member "
                f"({', '.join(str(member.endpoint) for member in self._members.values())}); correct its host and port."
            )
        return current

    def _pending(self) -> Secret | None:
        """This token's version while it is AWSPENDING, if it holds a usable value."""
        return self._made() if PENDING in self._stages() else None

    def _made(self) -> Secret | None:
        """This token's version, if it is there and holds a usable value."""
        try:
            answer = self._client.get_secret_value(SecretId=self._secret_id, VersionId=self._token)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("ResourceNotFoundException", "InvalidRequestException"):
                return None
            raise named(error, self._secret_id, self._token) or error from error
        value = answer.get("SecretString", "")
        return None if check(value, rds_rules=False) else parse(value, self._token)

    def _wanted(self, current: Secret) -> Secret:
        """The current version with this rotation's password."""
        pending = self._pending()
        if pending is None:
            raise RotationRefused(
                f"Version {self._token} of {self._secret_id} is not AWSPENDING or has no password; rotate again."
            )
        return current.with_password(pending.credentials.password)

    def _left_behind(self, current: Secret) -> str | None:
        """The password of an unfinished rotation that the server has taken already."""
        try:
            left = read(self._client, self._secret_id, PENDING)
        except (SecretMissing, SecretUnusable):
            return None
        left = current.with_password(left.credentials.password)
        with self._session(current, current, left) as session:
            return left.credentials.password if session.credentials != current.credentials else None

    def _new_password(self) -> str:
        return self._client.get_random_password(
            PasswordLength=self._policy.length,
            ExcludeCharacters="".join(dict.fromkeys(REFUSED_BY_RDS + self._policy.excluded)),
            RequireEachIncludedType=True,
        )["RandomPassword"]

    def _session(self, current: Secret, *versions: Secret) -> Session:
        """Signed in at the current host with the first password that works."""
        return master.open_first(current.endpoint, self._database, versions, SIGN_IN_SECONDS, "citizens-rotation")

    def _await_standby(self, standby: Endpoint, tested: Secret) -> None:
        """Wait until the standby accepts the password too; one that nobody reaches holds up no rotation."""
        deadline = time.monotonic() + REPLICATION_SECONDS
        while True:
            try:
                Session.open(standby, self._database, tested.credentials, SIGN_IN_SECONDS, "citizens-rotation").close()
            except Unreachable:
                return  # after a cut-over to it, AWSPREVIOUS still holds the password it has
            except Refused as refused:
                if refused.sqlstate not in NOT_ADMITTED:
                    raise
                if time.monotonic() > deadline:
                    raise RotationRefused(
                        f"The standby {standby} does not accept the new password after {REPLICATION_SECONDS:.0f} s; "
                        "look at its replication lag, Secrets Manager tries again."
                    ) from refused
                time.sleep(0.5)
            else:
                return

    def _refuse_during_incident(self, now: float) -> None:
        lease = incident.read_lease(self._table)
        if lease is not None and lease.held(now):
            raise RotationRefused(
                f"Incident {lease.incident} of epoch {lease.epoch} holds the lease, and no rotation runs during a "
                "failover; Secrets Manager tries again later."
            )


def _await_replication(session: Session) -> None:
    """Wait for the standbys that stream, for a while: each sign-in tried too early would be in their logs."""
    ((now_at,),) = session.run("SELECT pg_current_wal_lsn()::text", SIGN_IN_SECONDS)
    deadline = time.monotonic() + REPLICATION_SECONDS
    behind = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn < CAST(:position AS pg_lsn)"
    while session.run(behind, SIGN_IN_SECONDS, position=now_at)[0][0] and time.monotonic() < deadline:
        time.sleep(0.05)
