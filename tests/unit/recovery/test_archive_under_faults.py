"""The archive killed with SIGKILL again and again, on a full disk, and with a transaction larger than its memory."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from recovery.transaction_log import segment
from recovery.transaction_log.verification import OK, verify
from tests.unit.recovery import archive_process
from tests.unit.recovery.conftest import MASTER, PASSWORD, Pair
from tests.unit.recovery.test_transaction_log import drain, kept, ready

KILLS = 10
MEGABYTES = 100
SOAK_KILLS = 500
SOAK_MEGABYTES = 1024
GROWTH_BYTES = 100 << 20


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([archive_process.__name__])
    return context


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--soak"))


def start(processes: ForkServerContext, target: Callable[..., None], members: Pair, *arguments: Any) -> BaseProcess:
    known = (members.primary, str(members.bundle), MASTER, PASSWORD)
    process = processes.Process(target=target, args=(*known, *arguments), daemon=True)
    process.start()
    return process


class Writers:
    """Commit transactions of all sizes until stopped; the ids of those that were committed, in the order of commits."""

    def __init__(self, members: Pair) -> None:
        self.xids: list[int] = []
        self._members = members
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Writers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        with self._members.open() as session:
            while not self._stop.is_set():
                rows = random.choice((1, 1, 1, 30, 3000))
                ((xid, _),) = session.run(
                    f"WITH made AS (INSERT INTO citizens SELECT generate_series(1, {rows}), '市民' RETURNING 1) "
                    "SELECT pg_current_xact_id()::text::bigint, count(*) FROM made",
                    20,
                )
                self.xids.append(int(xid))


def test_killed_at_any_moment_and_run_twice_at_once_nothing_is_lost_or_doubled(
    members: Pair, tmp_path: Path, processes: ForkServerContext, soak: bool
) -> None:
    folder = tmp_path / "epoch-1"
    with members.open() as session:
        session.run("CREATE TABLE citizens (number int, name text)", 5)
        ready(session, folder)
    written = []
    with Writers(members) as writers:
        for _ in range(SOAK_KILLS if soak else KILLS):
            running = [start(processes, archive_process.keep_for_ever, members, folder, 50) for _ in range(2)]
            time.sleep(random.uniform(0.02, 0.5))
            for process in running:
                process.kill()
            for process in running:
                process.join()
            written.append(len(segment.segments(folder)))
    with members.open() as session:
        deadline = time.monotonic() + 20
        while session.run("SELECT active FROM pg_replication_slots WHERE slot_name = 'citizens_log'", 5) != [[False]]:
            assert time.monotonic() < deadline, "the slot is not released"
            time.sleep(0.05)
        drain(ready(session, folder, 1_000_000))
    assert len(set(written)) > 3, "the archive was killed too early to have written anything"
    assert kept(folder) == writers.xids
    assert verify(tmp_path).verdict == OK


def test_a_disk_that_is_full_stops_the_log_and_harms_nothing(
    members: Pair, tmp_path: Path, processes: ForkServerContext
) -> None:
    folder, told = tmp_path / "log" / "epoch-1", tmp_path / "told"
    with members.open() as session:
        session.run("CREATE TABLE citizens (number int, name text)", 5)
        ready(session, folder)
        session.run("INSERT INTO citizens SELECT n, sha256(n::text::bytea) FROM generate_series(1, 20000) AS n", 20)
        process = start(processes, archive_process.keep_once, members, folder, 200_000, told)
        process.join(60)
        assert told.read_text() == "OSError"
        assert not list(folder.glob("*.partial"))
        assert verify(folder.parent).verdict == OK
        assert kept(folder) == []
        drain(ready(session, folder))
    assert len(kept(folder)) == 1


def test_a_transaction_that_does_not_fit_into_memory_passes(
    members: Pair, tmp_path: Path, processes: ForkServerContext, soak: bool
) -> None:
    megabytes = SOAK_MEGABYTES if soak else MEGABYTES
    folder, told = tmp_path / "log" / "epoch-1", tmp_path / "told"
    with members.open() as session:
        session.run("CREATE TABLE citizens (number int, name text)", 5)
        ready(session, folder)
        session.run(
            f"INSERT INTO citizens SELECT n, repeat('x', 1 << 20) FROM generate_series(1, {megabytes}) AS n", 120
        )
    process = start(processes, archive_process.keep_once, members, folder, None, told)
    process.join(300)
    assert int(told.read_text()) < GROWTH_BYTES
    _, path = segment.segments(folder)
    assert segment.read(path).header.size > megabytes << 20
    assert verify(folder.parent).verdict == OK
