"""A witness probes both members from one availability zone, round after round, and says what it saw.

Nothing of AWS delays a probe: roles are read beside the probes, and observation, suspicion and metrics are written by a
thread of their own. What fails there is counted and reported, and probing goes on.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from recovery import heartbeat, observation, roles
from recovery.access import Access
from recovery.connection import NO_FREE_SLOT, NOT_ADMITTED, Refused, Session, Unreachable
from recovery.heartbeat import NOT_PREPARED, lsn_number
from recovery.members import Member, Members
from recovery.objectives import Detection
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.roles import Roles
from recovery.suspicion import Suspicion
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient

RENEW_ROUNDS = 3
"""A kept connection is replaced after so many rounds: it would not notice a changed security group or full slots."""
CARRIED_SECONDS = 15.0
"""An own observation this young is continued by the next invocation."""
WATCH_SECONDS = 60.0
"""The schedule's period; after it a run goes on until its successor is seen, so that no gap is left between them."""
LAST_ROUND_SECONDS = 130.0
"""No round begins later. EventBridge Scheduler keeps its time to within 60 s, so a successor may begin its own rounds
119 s after this run did, and a cold start later. With time-outs and goodbye a run ends before 140 s; the function's own
time-out is 150 s."""
LAMBDA_RESERVE_SECONDS = 6.0
METRICS_SECONDS = 30.0

Answer = TypeVar("Answer")
Report = Callable[[str, dict[str, object]], None]
"""Takes the name of a notable event and its fields."""


class Line:
    """The kept connection to one member."""

    def __init__(self, member: Member, access: Access, seconds: float, application: str) -> None:
        self._member = member
        self._access = access
        self._seconds = seconds
        self._application = application
        self._session: Session | None = None
        self._rounds = 0

    def ask(self, question: Callable[[Session, float], Answer]) -> Answer:
        """The answer within the probe's time-out, or Refused or Unreachable; after an error the next ask signs in anew.

        Full connection slots are not a failure while the kept connection still works: the server is alive.
        """
        deadline = time.monotonic() + self._seconds
        if self._session is None or self._rounds >= RENEW_ROUNDS:
            try:
                renewed = self._access.open(self._member.endpoint, self._seconds, self._application)
            except (Refused, Unreachable) as error:
                if self._session is None or not (isinstance(error, Refused) and error.sqlstate == NO_FREE_SLOT):
                    self.drop()
                    raise
            else:
                self.drop()
                self._session, self._rounds = renewed, 0
        assert self._session is not None
        self._rounds += 1
        try:
            return question(self._session, deadline - time.monotonic())
        except (Refused, Unreachable):
            self.drop()
            raise

    def drop(self) -> None:
        """Forget the connection."""
        if self._session is not None:
            self._session.abort()
            self._session = None


@dataclass(frozen=True)
class Means:
    """What a witness works with; `states` of the world outside are passed in."""

    members: Members
    access: Access
    table: RecoveryTable
    suspicion: Suspicion
    cloudwatch: Callable[[], CloudWatchClient]
    """Made in the background when the first metrics are due."""
    namespace: str
    suffix: str


class Witness:
    """One run of a witness function."""

    def __init__(
        self,
        name: str,
        means: Means,
        detection: Detection,
        report: Report,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._name = name
        self._means = means
        self._detection = detection
        self._report = report
        self._clock = clock
        self._sleep = sleep
        self._run = secrets.token_hex(4)
        application = f"citizens-witness-{name}"
        self._lines = {
            identifier: Line(member, means.access, detection.probe_timeout, application)
            for identifier, member in means.members.items()
        }
        self._pool = ThreadPoolExecutor(max_workers=6, thread_name_prefix=application)
        self._roles: Roles | None = None
        self._last: Observation | None = None
        self._last_lsn: str | None = None
        self._incident_at: float | None = None
        self._publishing: Future[None] | None = None
        self._reading: Future[Roles | None] | None = None
        self._started = clock()
        self._metrics_at: float | None = None
        self._succeeded = False
        self.probes = 0
        self.failures = 0
        self.troubles: Counter[str] = Counter()

    # -- the loop ------------------------------------------------------------------------------------------------

    def watch(self, remaining: Callable[[], float]) -> dict[str, object]:
        """Probe until the successor takes over (about a minute) or time is short; `remaining` is the function's own."""
        self._started = self._clock()
        try:
            while True:
                began = self._clock()
                followed = self.round()
                now = self._clock()
                if self._done(now, remaining()):
                    break
                if not followed:
                    self._sleep(max(0.0, self._detection.probe_interval - (now - began)))
        finally:
            self.close()
        return {"probes": self.probes, "failures": self.failures, "troubles": dict(self.troubles)}

    def _done(self, now: float, remaining: float) -> bool:
        elapsed = now - self._started
        if remaining < LAMBDA_RESERVE_SECONDS or elapsed >= LAST_ROUND_SECONDS:
            return True
        return elapsed >= WATCH_SECONDS and self._succeeded

    def close(self) -> None:
        """Wait for the last words, for a moment at most, and hang up."""
        self._finish(self._publishing, 3.0)
        for line in self._lines.values():
            line.drop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- one round -----------------------------------------------------------------------------------------------

    def round(self) -> bool:
        """Probe both members once and publish what was seen.

        True when the roles had changed and nothing was published: the next round should follow at once.
        """
        if self._roles is None and not self._begin():
            return False
        assert self._roles is not None
        current = self._roles
        if self._reading is None:
            self._reading = self._pool.submit(self._attempt, "roles", lambda: roles.read(self._means.table))
        at = self._clock()
        writing = self._pool.submit(self._probe_primary, current, at)
        replaying = self._pool.submit(self._probe_standby, current, at)
        primary, sequence = writing.result()
        standby = replaying.result()
        self.probes += 1

        if self._changed(current):
            return True
        seen = self._observe(current, at, primary, sequence, standby)
        self._note_changes(seen)
        self._last = seen
        self._publish(current, seen)
        return False

    def _begin(self) -> bool:
        """Learn the roles, or write them down for the first time; continue an earlier run's count of failures."""
        answer = self._attempt("roles", lambda: (roles.read(self._means.table),))
        if answer is None:
            return False  # the table does not answer: the record may well be there
        found = answer[0] or self._first_roles()
        if found is None:
            return False
        self._roles = found
        own = self._attempt("observation", lambda: observation.read(self._means.table, self._name))
        if own is not None and own.epoch == found.epoch and 0 <= self._clock() - own.at <= CARRIED_SECONDS:
            self._last, self._last_lsn = own, own.primary.lsn
        if own is not None:
            self._incident_at = own.incident_at
        return True

    def _first_roles(self) -> Roles | None:
        """Epoch 1 from what is seen: one member takes writes, the other replays. None while it is not so."""
        asked = {identifier: self._pool.submit(line.ask, heartbeat.state) for identifier, line in self._lines.items()}
        recovering: dict[str, bool] = {}
        for identifier, future in asked.items():
            try:
                recovering[identifier] = future.result().in_recovery
            except (Refused, Unreachable) as error:
                self._shut_out(error)
        writable = [identifier for identifier, replays in recovering.items() if not replays]
        if len(recovering) != 2 or len(writable) != 1:
            self._report("roles unknown", {"in_recovery": recovering})
            return None
        primary = writable[0]
        standby = next(identifier for identifier in recovering if identifier != primary)
        return self._attempt("roles", lambda: roles.create(self._means.table, primary, standby, self._clock()))

    def _probe_primary(self, current: Roles, at: float) -> tuple[PrimaryView, int | None]:
        try:
            written = self._lines[current.primary].ask(
                lambda session, seconds: heartbeat.write(session, self._name, current.epoch, at, seconds)
            )
        except (Refused, Unreachable) as error:
            # A server that knows us well enough to turn us away is alive, and no standby would let us in either.
            return PrimaryView(self._shut_out(error), f"The heartbeat was not written: {error}"), None
        return PrimaryView(True, None, written.lsn), written.sequence

    def _probe_standby(self, current: Roles, at: float) -> StandbyView:
        try:
            replayed = self._lines[current.standby].ask(
                lambda session, seconds: heartbeat.read(session, self._name, seconds)
            )
        except (Refused, Unreachable) as error:
            self._shut_out(error)
            return StandbyView(False, str(error))
        # Compared with what was acknowledged before this round: this round's write runs at the same time.
        newest = self._last.sequence if self._last is not None else None
        if replayed.sequence is None or replayed.at is None:
            lag = None
        elif newest is not None and replayed.sequence >= newest:
            lag = 0.0
        else:
            lag = max(0.0, at - replayed.at)
        promoted = None if replayed.state.in_recovery else "It is not in recovery: it has been promoted already."
        return StandbyView(True, promoted, lag, None, replayed.state.lsn, replayed.committed_at)

    def _observe(
        self, current: Roles, at: float, primary: PrimaryView, sequence: int | None, standby: StandbyView
    ) -> Observation:
        before = self._last
        self._last_lsn = primary.lsn or self._last_lsn
        if self._last_lsn and standby.replayed_lsn:
            behind = max(0, lsn_number(self._last_lsn) - lsn_number(standby.replayed_lsn))
            standby = replace(standby, lag_bytes=behind)
        failures, first = observation.failed_rounds(before, primary.reachable, at)
        self.failures += not primary.reachable
        return Observation(
            witness=self._name,
            at=self._clock(),
            epoch=current.epoch,
            primary=primary,
            standby=standby,
            failures=failures,
            first_failure_at=first,
            sequence=sequence if sequence is not None else (before.sequence if before else None),
            run=self._run,
            incident_at=self._incident_at,
        )

    def _changed(self, current: Roles) -> bool:
        """Take over what the table says about the roles, if it has answered; whether they are new."""
        if self._reading is None:
            return False
        try:
            found = self._reading.result(timeout=self._detection.probe_interval / 2)
        except StillRunning:
            self.troubles["roles"] += 1
            return False
        self._reading = None
        if found is None or found.epoch == current.epoch:
            return False
        self._roles, self._last, self._last_lsn, self._incident_at = found, None, None, None
        self._report("roles followed", {"epoch": found.epoch, "primary": found.primary, "standby": found.standby})
        return True

    def _note_changes(self, seen: Observation) -> None:
        before = self._last
        if before is None or before.primary.reachable != seen.primary.reachable:
            self._report(
                "primary reachable" if seen.primary.reachable else "primary lost", {"error": seen.primary.error}
            )
        if before is None or before.standby.reachable != seen.standby.reachable:
            self._report(
                "standby reachable" if seen.standby.reachable else "standby lost", {"error": seen.standby.error}
            )
        if seen.failures == self._detection.failure_threshold:
            self._report("primary suspected", {"failures": seen.failures, "first_failure_at": seen.first_failure_at})

    # -- telling -------------------------------------------------------------------------------------------------

    def _publish(self, current: Roles, seen: Observation) -> None:
        if self._publishing is not None and not self._publishing.done():
            self.troubles["publish"] += 1  # AWS hangs: the next round's observation is newer anyway
            return
        if self._publishing is not None:
            self._publishing.result()
        self._publishing = self._pool.submit(self._tell, current, seen)

    def _tell(self, current: Roles, seen: Observation) -> None:
        if self._clock() - self._started >= WATCH_SECONDS:
            own = self._attempt("observation", lambda: observation.read(self._means.table, self._name))
            if own is not None and own.run not in ("", self._run) and own.at > self._started + WATCH_SECONDS / 2:
                self._succeeded = True
                return
        self._attempt("observation", lambda: observation.put(self._means.table, seen))
        if seen.failures >= self._detection.failure_threshold:
            lease = self._attempt(
                "suspicion",
                lambda: self._means.suspicion.act(current, self._clock(), self._incident_at, seen.first_failure_at),
            )
            if lease is not None:
                if self._incident_at is None:
                    self._report("failover started", {"incident": lease.incident, "epoch": lease.epoch})
                self._incident_at = self._clock()
        now = self._clock()
        if self._metrics_at is None or now - self._metrics_at >= METRICS_SECONDS:
            self._metrics_at = now
            self._pool.submit(self._attempt, "metrics", lambda: self._measure(seen))

    def _measure(self, seen: Observation) -> None:
        values = {
            # Not written is not reachable for whoever is alarmed, be it only because the server shuts us out.
            "PrimaryReachable": (float(seen.primary.reachable and seen.primary.error is None), "None"),
            "StandbyReachable": (float(seen.standby.reachable), "None"),
            "StandbyLagSeconds": (seen.standby.lag_seconds, "Seconds"),
            "StandbyLagBytes": (seen.standby.lag_bytes, "Bytes"),
        }
        dimensions = [{"Name": "Suffix", "Value": self._means.suffix}, {"Name": "Witness", "Value": self._name}]
        data: list[Any] = [
            {"MetricName": name, "Value": float(value), "Unit": unit, "Dimensions": dimensions}
            for name, (value, unit) in values.items()
            if value is not None
        ]
        self._means.cloudwatch().put_metric_data(Namespace=self._means.namespace, MetricData=data)

    # -- AWS -----------------------------------------------------------------------------------------------------

    def _attempt(self, what: str, call: Callable[[], Answer]) -> Answer | None:
        """The answer of AWS, or None; a failure is counted, and reported the first time in a row."""
        try:
            answer = call()
        except (BotoCoreError, ClientError, roles.RolesUnknown) as error:
            if not self.troubles[what]:
                self._report("trouble", {"with": what, "error": str(error)})
            self.troubles[what] += 1
            return None
        return answer

    def _shut_out(self, error: Exception) -> bool:
        """Whether the server is there but refuses our role; counted, and reported the first time in a row."""
        if not isinstance(error, Refused) or error.sqlstate not in (*NOT_ADMITTED, *NOT_PREPARED):
            return False
        if not self.troubles["sign-in"]:
            self._report("trouble", {"with": "sign-in", "error": str(error)})
        self.troubles["sign-in"] += 1
        return True

    @staticmethod
    def _finish(future: Future[Any] | None, seconds: float) -> None:
        if future is not None:
            try:
                future.result(timeout=seconds)
            except StillRunning:
                return
