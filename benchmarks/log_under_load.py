"""The archive while the primary works: how late it keeps what is committed, what it costs, how much memory it takes.

So much does roll forward too, which applies the same changes to a copy. The archive runs in a process of its own as the
function does, with its pauses and its break between minutes. Here it shares the machine's processors with the primary;
deployed, the primary only decodes.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.result import Result, median_of
from benchmarks.transaction_log import PGBENCH_SCALE, SECONDS, Bench, bench_in_a_folder, open_session
from recovery.preparation import prepare
from recovery.transaction_log import segment, source
from recovery.transaction_log.archive import Archive, keep
from recovery.transaction_log.batches import Until
from recovery.transaction_log.path import Log
from recovery.transaction_log.pgoutput import Begin, decode
from recovery.transaction_log.position import Position
from recovery.transaction_log.roll_forward import roll_forward

SHIFT_SECONDS, BREAK_SECONDS = 20.0, 5.0
"""The function works for 55 s of each minute; shorter shifts have the same break."""
LOAD_SECONDS = 45
COST_SECONDS = 15
PAIRS = 5
DELAY_TARGET = 10.0
COST_TARGET = 0.7
FEW, MANY = 100_000, 10_000_000
CHANGES_A_TRANSACTION = 100_000
MEMORY_TARGET = 1.2
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_TPS = re.compile(r"tps = ([0-9.]+)")


def keep_in_shifts(path: str, folder: str, shifts: int, seconds: float, told: str) -> None:
    """What the process does; writes its peak resident memory in MiB to `told` (Linux)."""
    for shift in range(shifts):
        if shift:
            time.sleep(BREAK_SECONDS)
        with open_session(Path(path)) as session:
            keep(Archive(session, Path(folder), 1, patience=SECONDS), seconds, lambda: True, lambda _: None)
    _tell_peak(told)


def roll_forward_once(path: str, database: str, log: str, begins: int, told: str) -> None:
    """What another process does: all of the log onto a copy; its peak resident memory in MiB to `told` (Linux)."""
    with open_session(Path(path), database) as session:
        roll_forward(session, Log(Path(log)), Until(), start=Position(1, begins), seconds=SECONDS)
    _tell_peak(told)


def _tell_peak(told: str) -> None:
    found = _PEAK.search(Path("/proc/self/status").read_text())
    assert found is not None
    Path(told).write_text(str(int(found[1]) / 1024))


@contextmanager
def archive_beside(bench: Bench, folder: Path, shifts: int, seconds: float) -> Iterator[BaseProcess]:
    """The archive in a process of its own; ended when the caller is done."""
    process = multiprocessing.get_context("spawn").Process(
        target=keep_in_shifts,
        args=(str(bench.cluster.socket), str(_epoch(folder)), shifts, seconds, str(folder / "told")),
    )
    process.start()
    try:
        deadline = time.monotonic() + 60
        while not list(_epoch(folder).glob("*.segment")):
            if time.monotonic() > deadline or not process.is_alive():
                raise SystemExit("the archive did not begin within a minute")
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.join()


def delays(folder: Path) -> list[float]:
    """For each segment, how long its first transaction had been committed when it was kept (seconds)."""
    late = []
    for path in segment.segments(folder):
        found = segment.read(path)
        for message in segment.messages(found):
            begin = decode(message)
            assert isinstance(begin, Begin)
            late.append(path.stat().st_mtime - begin.at)
            break
    return late


def _pgbench(bench: Bench, seconds: int) -> float:
    printed = bench.host.run("pgbench", "-n", "-c", "4", "-j", "2", "-T", str(seconds), *bench.address, "postgres")
    found = _TPS.search(printed)
    assert found is not None
    return float(found[1])


def _ready(bench: Bench) -> None:
    bench.host.run("pgbench", "-i", "-q", "-s", str(PGBENCH_SCALE), *bench.address, "postgres")
    prepare(bench.session)


def _delay() -> float:
    with bench_in_a_folder() as (bench, folder):
        _ready(bench)
        with archive_beside(bench, folder, 2, SHIFT_SECONDS) as process:
            tps = _pgbench(bench, LOAD_SECONDS)
            process.join(60)
        late = delays(_epoch(folder))
        print(f"under {tps:.0f} transactions a second, {len(late)} segments; the latest {max(late):.1f} s behind")
        return max(late)


def _cost(pairs: int) -> list[float]:
    """Throughput with the archive for that without slot and archive, of two runs one after the other."""
    ratios = []
    with bench_in_a_folder() as (bench, folder):
        _ready(bench)
        for number in range(pairs):
            without = _pgbench(bench, COST_SECONDS)
            here = folder / str(number)
            here.mkdir()
            with archive_beside(bench, here, 1, SECONDS):
                ratios.append(_pgbench(bench, COST_SECONDS) / without)
            # The killed archive's connection ends when the server notices.
            deadline = time.monotonic() + 30
            while bench.session.run(
                f"SELECT 1 FROM pg_replication_slots WHERE active AND slot_name = '{source.NAME}'", 5
            ):
                if time.monotonic() > deadline:
                    raise SystemExit("the slot is not released")
                time.sleep(0.1)
            source.drop_slot(bench.session, SECONDS)
    return ratios


def _memory(changes: int) -> tuple[float, float]:
    """Peak resident memory (MiB) of an archive that works through so many changes, and of their roll forward."""
    with bench_in_a_folder() as (bench, folder):
        bench.session.run("CREATE TABLE loaded (id bigint PRIMARY KEY, name text)", SECONDS)
        bench.begin(keep_before=True)
        bench.session.run("SELECT pg_drop_replication_slot('origin')", SECONDS)
        with archive_beside(bench, folder, 1, 0.0) as first:
            first.join(60)
        for start in range(0, changes, CHANGES_A_TRANSACTION):
            bench.session.run(
                "INSERT INTO loaded SELECT n, 'citizen ' || md5(n::text) "
                f"FROM generate_series({start + 1}, {start + CHANGES_A_TRANSACTION}) AS n",
                SECONDS,
            )
        kept = 0
        while kept < changes:
            with archive_beside(bench, folder, 1, SHIFT_SECONDS) as process:
                process.join(SECONDS)
            found = [segment.read(path).header.messages for path in segment.segments(_epoch(folder))]
            kept = sum(found)
        archived = float((folder / "told").read_text())
        begins = segment.read_header(segment.segments(_epoch(folder))[0]).first
        process = multiprocessing.get_context("spawn").Process(
            target=roll_forward_once,
            args=(str(bench.cluster.socket), "before", str(folder / "log"), begins, str(folder / "told")),
        )
        process.start()
        process.join()
        with bench.open("before") as copy:
            if process.exitcode != 0 or copy.run("SELECT count(*) FROM loaded", SECONDS) != [[changes]]:
                raise SystemExit(f"roll forward ended with {process.exitcode} and other rows than the source's")
        return archived, float((folder / "told").read_text())


def _epoch(folder: Path) -> Path:
    return folder / "log" / "epoch-1"


def log_under_load(runs: int, environment: Mapping[str, str]) -> dict[str, Result]:
    """Delay, cost and memory of the archive beside a working primary; memory of roll forward."""
    del environment
    (few, few_forward), (many, many_forward) = _memory(FEW), _memory(MANY)
    for what, little, much in (("the archive", few, many), ("roll forward", few_forward, many_forward)):
        print(f"peak memory of {what}: {little:.0f} MiB for {FEW:,} changes, {much:.0f} MiB for {MANY:,}")
    return {
        "archive_delay": median_of([_delay() for _ in range(min(runs, 3))], DELAY_TARGET),
        "pgbench_with_archive": median_of(_cost(max(runs, PAIRS)), COST_TARGET, "×", at_least=True),
        "archive_memory_1e7_vs_1e5": median_of([many / few], MEMORY_TARGET, "×"),
        "archive_memory": median_of([many], 200, "MiB"),
        "roll_forward_memory_1e7_vs_1e5": median_of([many_forward / few_forward], MEMORY_TARGET, "×"),
    }
