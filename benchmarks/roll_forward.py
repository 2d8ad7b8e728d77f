"""Roll forward beside native logical replication: the same changes onto equal copies, in turns, on one cluster.

Each run gets a new copy of the database as it was before the load. Native replication reads the slot from there; roll
forward reads the segments that the archive made of the same changes. Both write with `synchronous_commit` off until the
end, and after every run the tables must be the source's. A ratio is of two runs, one right after the other.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.result import Result, median_of
from benchmarks.transaction_log import FEWEST_RUNS, SECONDS, Bench
from recovery.heartbeat import lsn_number
from recovery.transaction_log import source
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.batches import Until
from recovery.transaction_log.digest import Digest, digests
from recovery.transaction_log.path import Log
from recovery.transaction_log.position import Position
from recovery.transaction_log.roll_forward import roll_forward

PGBENCH_TARGET = 2.0
COPY_TARGET = 1.5
_APPLIED = """
SELECT count(*) FROM pg_replication_origin_status
WHERE external_id = (SELECT 'pg_' || oid FROM pg_subscription WHERE subname = 'theirs')
  AND remote_lsn >= CAST(:end AS pg_lsn)"""


class Race:
    """The source's load in the log, and the database before it to copy from."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench = bench
        self._log = folder / "log"
        ((self._start,),) = bench.session.run(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'origin'", SECONDS
        )
        with bench.slot(source.NAME), bench.open() as session:
            archive = Archive(session, self._log / "epoch-1", 1, patience=SECONDS)
            archive.prepare()
            while archive.step() is not None:
                pass
        self._end = Log(self._log).end()
        self._wanted = digests(bench.session, SECONDS)

    def _copy(self, name: str) -> None:
        self._bench.session.run(f"CREATE DATABASE {name} TEMPLATE before STRATEGY file_copy", SECONDS)
        self._bench.session.run("CHECKPOINT", SECONDS)

    def _drop(self, name: str) -> None:
        self._bench.session.run(f"DROP DATABASE {name} WITH (FORCE)", SECONDS)

    def _require_same(self, found: dict[str, Digest], who: str) -> None:
        if found != self._wanted:
            raise SystemExit(f"{who} did not give the source's tables: {found} instead of {self._wanted}")

    def ours(self) -> float:
        """Seconds of roll forward."""
        self._copy("ours")
        with self._bench.open("ours") as session:
            started = time.monotonic()
            roll_forward(session, Log(self._log), Until(), start=Position(1, lsn_number(self._start)))
            seconds = time.monotonic() - started
            self._require_same(digests(session, SECONDS), "roll forward")
        self._drop("ours")
        return seconds

    def theirs(self) -> float:
        """Seconds from enabling a subscription until it has applied the last transaction."""
        self._copy("native")
        host, port = self._bench.host.sockets, self._bench.cluster.socket.suffix.removeprefix(".")
        from_here = f"host={host} port={port} dbname=postgres user={self._bench.address[-1]}"
        with self._bench.slot("theirs"), self._bench.open("native") as session:
            session.run(
                f"CREATE SUBSCRIPTION theirs CONNECTION '{from_here}' PUBLICATION {source.NAME} "
                "WITH (create_slot = false, slot_name = theirs, copy_data = false, enabled = false)",
                SECONDS,
            )
            started = time.monotonic()
            session.run("ALTER SUBSCRIPTION theirs ENABLE", SECONDS)
            end = str(self._end).partition(":")[2]
            while session.run(_APPLIED, SECONDS, end=end) == [[0]]:
                time.sleep(0.01)
            seconds = time.monotonic() - started
            self._require_same(digests(session, SECONDS), "native logical replication")
            session.run("ALTER SUBSCRIPTION theirs DISABLE", SECONDS)
            session.run("ALTER SUBSCRIPTION theirs SET (slot_name = NONE)", SECONDS)
            session.run("DROP SUBSCRIPTION theirs", SECONDS)
            deadline = time.monotonic() + SECONDS
            while session.run("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'theirs' AND active", SECONDS):
                if time.monotonic() > deadline:
                    raise SystemExit("the subscription's worker does not end")
                time.sleep(0.05)
        self._drop("native")
        return seconds


def _ratios(load: str, runs: int) -> list[float]:
    folder = Path(tempfile.mkdtemp(prefix="citizens-bench-"))
    folder.chmod(0o755)
    try:
        with contextlib.closing(Bench(folder / "state")) as bench:
            bench.load(load, keep_before=True)
            race = Race(bench, folder)
            pairs = [(race.theirs(), race.ours()) for _ in range(runs)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    theirs, ours = sorted(pair[0] for pair in pairs), sorted(pair[1] for pair in pairs)
    print(f"{load}: roll forward {ours} s, native logical replication {theirs} s", file=sys.stderr)
    return [native / own for native, own in pairs]


def roll_forward_race(runs: int, environment: Mapping[str, str]) -> dict[str, Result]:
    """Speed of roll forward beside native logical replication's, for pgbench and for a load of COPYs; ≥ 5 runs."""
    del environment
    results = {}
    for load, suffix, target in (("pgbench", "", PGBENCH_TARGET), ("copy", "_copy", COPY_TARGET)):
        ratios = _ratios(load, max(runs, FEWEST_RUNS))
        results[f"roll_forward_vs_logical_apply{suffix}"] = median_of(ratios, target, "×", at_least=True)
    return results
