"""Clients write all through a promotion: the logs of both epochs together hold everything that was committed."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from recovery.connection import Refused, Session, Unreachable
from recovery.heartbeat import lsn_text
from recovery.table import RecoveryTable
from recovery.transaction_log import continuity, segment, source
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.continuity import CAME_ALONG
from recovery.transaction_log.open_log import open_log
from recovery.transaction_log.segment import CHANGES, OPENED, Header
from recovery.transaction_log.verification import OK, WARNING, verify
from tests.unit.recovery.conftest import PRIMARY, STANDBY, Pair
from tests.unit.recovery.test_transaction_log import drain
from tests.unit.recovery.test_verification_of_the_log import Log, kinds

PARAMETERS = {
    "rds.logical_replication": "1",
    "rds.force_ssl": "1",
    "hot_standby_feedback": "1",
    "sync_replication_slots": "1",
}


def numbers(folder: Path) -> set[int]:
    """The numbers of the rows that a log holds: each is inserted as eight digits."""
    found = set()
    for path in segment.segments(folder):
        for message in segment.messages(segment.read(path)):
            if message[:1] == b"I":
                digits = message[-8:]
                if digits.isdigit():
                    found.add(int(digits))
    return found


class Client:
    """Writes to one member as fast as it can, from a number on; whoever else is there does not concern it."""

    def __init__(self, members: Pair, member: str, first: int) -> None:
        self._members, self._member = members, member
        self._next = first
        self._over = threading.Event()
        self.acknowledged: list[int] = []
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        endpoint = self._members.members[self._member].endpoint
        while not self._over.is_set():
            with contextlib.suppress(Unreachable, Refused), self._members.open(endpoint) as session:
                while not self._over.is_set():
                    session.run("INSERT INTO citizens VALUES (:number)", 5, number=f"{self._next:08d}")
                    self.acknowledged.append(self._next)
                    self._next += 1
            time.sleep(0.005)

    def stop(self) -> list[int]:
        self._over.set()
        self._thread.join()
        return self.acknowledged


def synced(standby: Session) -> bool:
    return bool(
        standby.run(
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'citizens_log' AND synced AND NOT temporary", 5
        )
    )


def until(condition: object, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def test_whatever_clients_do_during_a_promotion_nothing_is_in_neither_log(
    new_pair: Pair, table: RecoveryTable, tmp_path: Path
) -> None:
    for member in (PRIMARY, STANDBY):
        new_pair.fleet.modify(member, parameters=PARAMETERS)
    new_pair.prepare()
    with new_pair.open() as session:
        session.run("CREATE TABLE citizens (number text PRIMARY KEY)", 5)
        archive = Archive(session, tmp_path / "epoch-1", 1)
        archive.prepare()
        client = Client(new_pair, PRIMARY, 10_000_000)
        with new_pair.open(new_pair.standby) as standby:

            def kept_in_step() -> bool:
                archive.step()
                return synced(standby)

            until(kept_in_step, "the slot on the standby")
        drain_until = time.monotonic() + 1
        while time.monotonic() < drain_until:
            archive.step()
        # It finds the promoted standby by itself, and writes before anybody has opened the new epoch's log.
        early = Client(new_pair, STANDBY, 20_000_000)
        new_pair.fleet.promote(STANDBY)
        until(lambda: len(early.acknowledged) >= 20, "writes on the promoted standby")
        before = client.stop()
        drain(archive)

    def a_primary() -> bool:
        view = new_pair.fleet.describe(STANDBY)
        return view.status == "available" and view.source_identifier is None

    until(a_primary, "the end of the promotion")
    with new_pair.open(new_pair.standby) as promoted:
        opened = open_log(promoted, table, 2, STANDBY, time.time())
        soon = len(early.acknowledged) + 20
        until(lambda: len(early.acknowledged) >= soon, "more writes")
        after = early.stop()
        continued = Archive(promoted, tmp_path / "epoch-2", 2)
        continued.prepare()
        drain(continued)
        had = {int(number) for (number,) in promoted.run("SELECT number FROM public.citizens", 5)}
    first = segment.read(segment.segments(tmp_path / "epoch-2")[0]).header
    assert (first.kind, first.reason, lsn_text(first.first)) == (OPENED, CAME_ALONG, opened.begin_lsn)
    old, new = numbers(tmp_path / "epoch-1"), numbers(tmp_path / "epoch-2")
    assert set(before) <= old
    assert set(after) <= new
    assert had <= old | new
    report = verify(tmp_path)
    assert (report.verdict, report.findings) == (OK, ())


def test_a_slot_that_was_made_after_the_promotion_is_a_join_that_nobody_can_vouch_for(tmp_path: Path) -> None:
    old = Log(tmp_path)
    old.link(old.header)
    old.changes(100)
    new = Log(tmp_path, epoch=2)
    new.link(new.header)
    report = verify(tmp_path)
    assert (report.verdict, kinds(report)) == (WARNING, {"JOIN"})
    assert "made at 0/32, after the promotion" in report.as_text()


@pytest.mark.parametrize(("begins", "joins"), [(50, True), (108, True), (109, False)])
def test_a_slot_that_came_along_joins_when_it_begins_before_the_old_log_ends(begins: int, joins: bool) -> None:
    old = Header(1, "42", None, CHANGES, 100, 108)
    new = Header(2, "42", None, OPENED, begins, begins, reason=CAME_ALONG)
    assert (continuity.hole(old, new) is None) is joins
    assert continuity.hole(old, replace(new, kind=CHANGES)) is None


def test_a_slot_made_here_did_not_come_along(members: Pair) -> None:
    with members.open() as session:
        source.ensure_slot(session)
        assert continuity.evidence(session, 5) == ""
