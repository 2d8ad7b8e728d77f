"""How long `verify` takes for an hour of log at 1,000 transactions a second, read by a process for each processor.

PostgreSQL decodes a smaller pgbench load for real, in segments of four seconds each; the hour is these again and
again, with the positions of every transaction moved on, written by the archive's own writer into one chain.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.result import Result, median_of
from benchmarks.transaction_log import SECONDS, Bench
from recovery.transaction_log import copy_stream, segment, source
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.segment import CHANGES, Header, Segment
from recovery.transaction_log.verification import OK, verify

TRANSACTIONS = 3_600_000
SAMPLE = 24_000
BATCH_CHANGES = 24_000
"""Four seconds of 1,000 transactions of six messages: what the archive writes at that rate."""
TARGET_SECONDS = 30.0
_POSITION = struct.Struct("!Q")
_TAKEN = 1 << 20


@dataclass(frozen=True)
class Sample:
    """A real segment's stream and where in it positions stand (offset → position)."""

    header: Header
    content: bytes
    positions: tuple[tuple[int, int], ...]
    transactions: int


def read(path: Path) -> Sample:
    """Take a segment apart."""
    content = b"".join(segment.blocks(path))
    positions, transactions, at = [], 0, 0
    for message in copy_stream.messages([content]):
        at = content.index(message, at)
        match message[:1]:
            case b"B":
                transactions += 1
                positions.append((at + 1, _POSITION.unpack_from(message, 1)[0]))
            case b"C":
                positions += [(at + offset, _POSITION.unpack_from(message, offset)[0]) for offset in (2, 10)]
        at += len(message)
    return Sample(segment.read(path).header, content, tuple(positions), transactions)


def moved(sample: Sample, by: int) -> bytes:
    """The stream with every position so many bytes further on."""
    content = bytearray(sample.content)
    for offset, position in sample.positions:
        _POSITION.pack_into(content, offset, position + by)
    return bytes(content)


def write_hour(samples: list[Sample], opened: Segment, transactions: int) -> int:
    """Write segments behind `opened` until they hold so many transactions; how many they hold."""
    newest, held, by = opened, 0, 0
    span = samples[-1].header.last - samples[0].header.first + (1 << 20)
    while held < transactions:
        for sample in samples:
            header = replace(
                sample.header,
                previous=newest.sha256,
                kind=CHANGES,
                first=sample.header.first + by,
                last=sample.header.last + by,
            )
            with contextlib.closing(segment.Writer(newest.path.parent)) as writer:
                content = moved(sample, by)
                for start in range(0, len(content), _TAKEN):
                    writer.take(content[start : start + _TAKEN])
                newest = writer.finish(header, newest.path)
            held += sample.transactions
        by += span
    segment.record_newest(newest)
    return held


@contextlib.contextmanager
def hour_of_log(transactions: int = TRANSACTIONS) -> Iterator[tuple[Path, int]]:
    """A log of so many transactions in a folder of its own, and how many they are."""
    folder = Path(tempfile.mkdtemp(prefix="citizens-bench-"))
    folder.chmod(0o755)
    try:
        with contextlib.closing(Bench(folder / "state")) as bench:
            bench.load_pgbench(SAMPLE)
            bench.session.run(f"SELECT pg_copy_logical_replication_slot('origin', '{source.NAME}')", SECONDS)
            with bench.open() as session:
                archive = Archive(session, folder / "real" / "epoch-1", 1, batch=BATCH_CHANGES, patience=SECONDS)
                archive.prepare()
                while archive.step() is not None:
                    pass
        opened, *real = segment.segments(folder / "real" / "epoch-1")
        kept = folder / "log" / "epoch-1"
        kept.mkdir(parents=True)
        shutil.copy(opened, kept)
        yield folder / "log", write_hour([read(path) for path in real], segment.read(kept / opened.name), transactions)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verification(runs: int, environment: Mapping[str, str]) -> dict[str, Result]:
    """Seconds of `verify`, files in the page cache as the archive left them."""
    del environment
    times = []
    with hour_of_log() as (root, held):
        for _ in range(runs):
            started = time.monotonic()
            report = verify(root, os.cpu_count() or 1)
            times.append(time.monotonic() - started)
            assert (report.verdict, report.epochs[0].transactions) == (OK, held), report.as_text()
        print(f"verify: {held} transactions in {report.epochs[0].segments} segments, {report.epochs[0].bytes} bytes")
    return {"verify_an_hour_of_log": median_of(times, TARGET_SECONDS)}
