"""The drill of wrong data: someone drops a table, clients go on, and an operator goes back to just before it.

RDS restores to a moment some minutes ago, beside the members; the transaction log adds what was committed from there to
just before the drop, and lists what came after. What the restored instance holds is compared with what clients were
told: all that was acknowledged before the drop, the dropped table as it was, and nothing from after it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from deployment.account import Account
from deployment.cdk import Cdk
from deployment.destruction import Destruction
from deployment.problem import Problem
from deployment.restoration import Outcome, Restoration, Target
from drills.client import Application
from drills.drill import LOAD_SECONDS, SETTLE_SECONDS, Drill
from drills.ledger import TABLE, Attempt, Ledger, acknowledged
from drills.measurement import Measurement, Objectives
from drills.scenarios import post
from drills.watch import Watch
from recovery.clock import iso

REGISTER = "public.drill_register"
REGISTER_ROWS = 2000
_CONTENT = f"SELECT count(*), md5(string_agg(r::text, ',' ORDER BY number)) FROM {REGISTER} r"  # noqa: S608

QUICK_UPLOAD_SECONDS = 2.0
"""Until there is something to restore; then RDS's five minutes, so that the restored instance is really behind."""
RDS_UPLOAD_SECONDS = 300.0
PATIENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Harm:
    """The drop as its client saw it: when it was sent and answered (epoch seconds), and the table's content before."""

    sent: float
    answered: float
    content: tuple[object, ...]


class RewindDrill(Drill):
    """A drill whose recovery is an operator's: `python -m deployment restore`."""

    def _rehearse(self, account: Account, flat: Mapping[str, str]) -> Measurement:
        try:
            return self._go_back(account, flat)
        except psycopg.Error as error:
            raise Problem(f"The drill could not reach the database: {' '.join(str(error).split())[:300]}") from error

    def _go_back(self, account: Account, flat: Mapping[str, str]) -> Measurement:
        application, control = Application(account, flat), account.environment["LOCAL_CLOUD_URL"]
        ledger, watch = Ledger(application.connect), Watch(account, flat, self.timeline)
        operator = Restoration(account, self.suffix, lambda line: self._tell("operator", line))
        with self._phase("load"):
            post(f"{control}/delays", {"log_upload_seconds": QUICK_UPLOAD_SECONDS}, "PUT")
            ledger.create_table()
            _create_register(application)
            created = time.time()
            ledger.start()
            self._await_witnesses(account, flat)
            watch.start()
            latest = self._await_restorable(account, flat["Member1Identifier"], created)
            post(f"{control}/delays", {"log_upload_seconds": RDS_UPLOAD_SECONDS}, "PUT")
            self._tell("rds", f"the latest restorable time is {latest} and stays there: RDS's lag of five minutes")
            time.sleep(LOAD_SECONDS)
        try:
            with self._phase("recover"):
                harm = self._drop(application)
                time.sleep(SETTLE_SECONDS)
                target = self._find(operator, harm)
                outcome = operator.run(target)
                ready = time.time()
                self._tell_outcome(outcome, ready - harm.answered)
        finally:
            ledger.stop()
        watch.stop()
        with _connect_restored(application, outcome) as restored:
            present = {int(str(number)) for (number,) in restored.execute(f"SELECT number FROM {TABLE}")}  # noqa: S608
            content = restored.execute(_CONTENT).fetchone()
        self._observe(ledger, watch, _wanted(ledger.attempts, present, harm), harm.answered, time.time())
        return judge(ledger.attempts, ledger.broken, present, content == harm.content, harm, ready, self.objectives)

    def _destroy(self, cdk: Cdk, account: Account) -> None:
        """As the operator does it: the restored instance is outside the stack."""
        Destruction(account, cdk, protect=False, announce=lambda line: self._tell("operator", line)).run()

    def _tell(self, source: str, line: str) -> None:
        self.timeline.add(source, line)

    def _await_restorable(self, account: Account, member: str, since: float) -> str:
        rds, deadline = account.client("rds"), time.monotonic() + PATIENCE_SECONDS
        while True:
            found = rds.describe_db_instances(DBInstanceIdentifier=member)["DBInstances"][0]
            latest = found.get("LatestRestorableTime")
            # Whole seconds are restored to.
            if latest is not None and latest.timestamp() > since + 1:
                return iso(latest.timestamp())
            if time.monotonic() > deadline:
                raise Problem(f"{member} could not be restored to after {datetime.fromtimestamp(since, UTC)} in time.")
            time.sleep(0.2)

    def _drop(self, application: Application) -> Harm:
        """As the application: the last change before it and the drop are one after the other."""
        with _patient(application) as connection:
            connection.execute(f"UPDATE {REGISTER} SET note = note || ' 訂正済' WHERE number % 7 = 0")  # noqa: S608
            content = connection.execute(_CONTENT).fetchone()
            sent = time.time()
            connection.execute(f"DROP TABLE {REGISTER}")
            answered = time.time()
        self.timeline.add("client", f"DROP TABLE {REGISTER}", answered)
        assert content is not None
        return Harm(sent, answered, content)

    def _find(self, operator: Restoration, harm: Harm) -> Target:
        """The drop's transaction in the log; where the log keeps no DDL, the moment before it was sent."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found, _ = operator.transactions(since=iso(harm.sent - 1))
            for each in found:
                if any(said.startswith("DROP TABLE") and REGISTER in said for said in each["ddl"]):
                    self._tell("operator", f"found in the log: {each['text']}")
                    return Target(before=str(each["position"]))
            if any(each["committed_at_us"] / 1e6 > harm.answered for each in found):
                self._tell("operator", "the log holds no DDL: the time at which the client sent it must do")
                return Target(until=harm.sent)
            if time.monotonic() > deadline:
                raise Problem(
                    f"The log does not reach the drop within {PATIENCE_SECONDS:.0f} s: see the archive's log."
                )
            time.sleep(0.5)

    def _tell_outcome(self, outcome: Outcome, seconds: float) -> None:
        account = outcome.account
        self._tell(
            "operator",
            f"{outcome.identifier} is back {seconds:.1f} s after the drop: restored to {outcome.restored_to}, the log "
            f"added {account['transactions']} transactions ({account['changes']} changes) up to {account['reached']}",
        )
        self._tell("operator", f"after it the log holds {len(outcome.after)} transactions{' and more' * outcome.more}")
        for each in outcome.after[:3]:
            self._tell("operator", f"  {each['text']}")


def judge(
    attempts: list[Attempt],
    broken: list[str],
    present: set[int],
    register_is_back: bool,
    harm: Harm,
    ready: float,
    objectives: Objectives,
) -> Measurement:
    """What the restored instance holds (`present`) against what clients were told; times in epoch seconds.

    Acknowledged before the drop was sent: must be there. Begun after it was answered: must not be.
    """
    confirmed = list(acknowledged(attempts))
    before = [attempt for attempt in confirmed if attempt.ended < harm.sent]
    lost = [attempt for attempt in before if attempt.number not in present]
    surplus = [attempt for attempt in attempts if attempt.started > harm.answered and attempt.number in present]
    failed = [attempt for attempt in attempts if attempt.outcome == "failed" and attempt.ended > harm.sent]
    rto = ready - harm.answered
    rpo = harm.sent - min(attempt.ended for attempt in lost) if lost else 0.0

    def result(verdict: str, reason: str) -> Measurement:
        assert verdict in ("met", "missed", "not measured")
        return Measurement(verdict, reason, rto, None, rpo, len(before), len(lost))  # type: ignore[arg-type]

    if broken:
        return result("not measured", f"The probe itself failed: {broken[0]}.")
    if not before or not any(attempt.started > harm.answered for attempt in confirmed):
        return result("not measured", "There was no load before and after the drop, so nothing was shown.")
    if not register_is_back:
        return result("missed", f"{REGISTER} is not what it was before the drop.")
    if lost:
        return result("missed", f"{len(lost)} of {len(before)} transactions acknowledged before the drop are missing.")
    if surplus:
        return result("missed", f"{len(surplus)} transactions from after the drop are in the restored instance.")
    if failed:
        return result("missed", f"Clients noticed: {failed[0].error}.")
    if rto > objectives.rto_seconds:
        return result("missed", f"The restored instance was ready after {rto:.0f} s, later than the RTO.")
    return result(
        "met",
        f"{REGISTER} is back as it was, with all {len(before)} transactions acknowledged before the drop and none from "
        f"after it; clients noticed nothing.",
    )


def _wanted(attempts: list[Attempt], present: set[int], harm: Harm) -> set[int]:
    """What the restored instance holds, and what it must not hold: only a loss from before the drop is one."""
    return present | {attempt.number for attempt in attempts if attempt.ended >= harm.sent}


def _patient(application: Application) -> psycopg.Connection[tuple[object, ...]]:
    """Nothing is measured by how soon this one is answered."""
    return application.connect_with(*application.credentials())


def _create_register(application: Application) -> None:
    with _patient(application) as connection:
        connection.execute(f"CREATE TABLE {REGISTER} (number int PRIMARY KEY, note text)")
        connection.execute(
            f"INSERT INTO {REGISTER} SELECT n, '市民 ' || n FROM generate_series(1, {REGISTER_ROWS}) n"  # noqa: S608
        )


def _connect_restored(application: Application, outcome: Outcome) -> psycopg.Connection[tuple[object, ...]]:
    user, password = application.credentials()
    return psycopg.connect(
        host=outcome.endpoint.host,
        port=outcome.endpoint.port,
        dbname="citizens",
        user=user,
        password=password,
        sslmode="verify-full",
        sslrootcert=application.certificate_authority,
        connect_timeout=15,
        autocommit=True,
    )
