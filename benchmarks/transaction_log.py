"""The transaction log beside `pg_recvlogical`: the same slot position, in turns, on one PostgreSQL cluster.

Both use TCP, the only way to a DB instance of RDS, and for comparison the cluster's Unix socket. Neither uses TLS: the
server at hand knows none, and of the endpoint's proxy it would be measured how fast that is. Ours is the archive as it
is deployed (peek, compress, digest, fsync, rename, advance); `pg_recvlogical` writes what it gets to a file. A ratio is
of two runs, one right after the other.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from pg8000.native import Connection

from benchmarks.result import Result, median_of
from local_cloud.cluster import ADMINISTRATOR, HOST_BASED_AUTHENTICATION, Cluster, make_template
from local_cloud.postgres_host import PostgresHost
from recovery.connection import Credentials, Session, _Watchdog
from recovery.members import Endpoint
from recovery.preparation import prepare
from recovery.transaction_log import segment, source
from recovery.transaction_log.archive import Archive

Way = Literal["tcp", "unix"]
WAYS: tuple[Way, ...] = get_args(Way)
PGBENCH_TRANSACTIONS = 120_000
PGBENCH_SCALE = 10
COPIES = 10
ROWS_PER_COPY = 100_000
RATIO_TARGET = 4.0
BYTES_TARGET = 0.3
SECONDS = 300.0
FEWEST_RUNS = 5
LOOPBACK = "127.0.0.1"
ADMITTED = f"host all,replication {ADMINISTRATOR} {LOOPBACK}/32 trust\n"
SETTINGS = {
    "wal_level": "logical",
    "shared_buffers": "128MB",
    "max_wal_size": "4GB",
    # All that is loaded stays behind the slot, however long loading takes.
    "wal_keep_size": "4GB",
    "synchronous_commit": "off",
    "listen_addresses": LOOPBACK,
}


@dataclass
class Figures:
    """Of one load: seconds and bytes of each run, ours and theirs."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    our_bytes: list[int] = field(default_factory=list)
    their_bytes: list[int] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """How many times as fast as theirs each run of ours was."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    def sizes(self) -> list[float]:
        """Bytes of ours for a byte of theirs."""
        return [ours / theirs for ours, theirs in zip(self.our_bytes, self.their_bytes, strict=True)]


def open_session(path: Path, database: str = "postgres") -> Session:
    """A session of the cluster's administrator by its Unix socket."""
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(str(path))
    return _session(raw, Endpoint(str(path), 0), database)


def _session(raw: socket.socket, endpoint: Endpoint, database: str) -> Session:
    connection = Connection(ADMINISTRATOR, database=database, sock=raw, ssl_context=False)
    return Session(connection, _Watchdog(raw.dup()), endpoint, Credentials(ADMINISTRATOR, ""))


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as found:
        port: int = found.getsockname()[1]
        return port


class Bench:
    """A cluster with a load behind a slot, which is copied for every run."""

    def __init__(self, folder: Path) -> None:
        # A cluster's number is its port
        self.host = PostgresHost(folder, first_number=_free_port())
        self.cluster = Cluster(self.host, "bench", lambda _: None)
        self.cluster.create(make_template(self.host))
        self.host.write(self.cluster.data / "pg_hba.conf", ADMITTED + HOST_BASED_AUTHENTICATION)
        self.cluster.configure(SETTINGS)
        self.cluster.start()
        number = self.cluster.socket.suffix.removeprefix(".")
        self.address = ("-h", str(self.host.sockets), "-p", number, "-U", ADMINISTRATOR)
        self.session = self.open()

    def open(self, database: str = "postgres") -> Session:
        return open_session(self.cluster.socket, database)

    def open_by(self, way: Way) -> Session:
        if way == "unix":
            return self.open()
        port = int(self.address[3])
        raw = socket.create_connection((LOOPBACK, port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _session(raw, Endpoint(LOOPBACK, port), "postgres")

    def load(self, load: str, keep_before: bool = False) -> None:
        """Put the load `pgbench` or `copy` behind the slot; `keep_before`: the database as it was, as `before`."""
        self.load_pgbench(keep_before=keep_before) if load == "pgbench" else self.load_copies(keep_before)

    def begin(self, keep_before: bool = False) -> None:
        prepare(self.session)
        if keep_before:
            self.session.close()
            with self.open("template1") as elsewhere:
                elsewhere.run("CREATE DATABASE before TEMPLATE postgres STRATEGY file_copy", SECONDS)
            self.session = self.open()
        self.session.run("SELECT pg_create_logical_replication_slot('origin', 'pgoutput')", SECONDS)

    def load_pgbench(self, transactions: int = PGBENCH_TRANSACTIONS, keep_before: bool = False) -> None:
        self.host.run("pgbench", "-i", "-q", "-s", str(PGBENCH_SCALE), *self.address, "postgres")
        self.begin(keep_before)
        clients = ("-n", "-c", "4", "-j", "2", "-t", str(transactions // 4))
        self.host.run("pgbench", *clients, *self.address, "postgres")

    def load_copies(self, keep_before: bool = False) -> None:
        self.session.run("CREATE TABLE loaded (id bigint, name text, born date, address text, at timestamptz)", SECONDS)
        self.begin(keep_before)
        rows = self.host.storage / "rows.csv"
        self.session.run(
            "COPY (SELECT n, 'citizen ' || md5(n::text), date '1930-01-01' + n % 30000, "
            "md5((n * 7)::text) || ' street', now() + n * interval '1 s' "
            f"FROM generate_series(1, {ROWS_PER_COPY}) AS n) TO '{rows}'",
            SECONDS,
        )
        for _ in range(COPIES):
            self.session.run(f"COPY loaded FROM '{rows}'", SECONDS)

    def measure(self, runs: int, folder: Path, way: Way) -> Figures:
        ((end,),) = self.session.run("SELECT pg_current_wal_flush_lsn()::text", SECONDS)
        figures = Figures()
        for number in range(runs):
            with self.slot("theirs"):
                seconds, size = self.theirs(end, way)
            figures.theirs.append(seconds)
            figures.their_bytes.append(size)
            with self.slot(source.NAME):
                seconds, size = self.ours(folder / str(number), way)
            figures.ours.append(seconds)
            figures.our_bytes.append(size)
        return figures

    @contextlib.contextmanager
    def slot(self, name: str) -> Iterator[None]:
        self.session.run(f"SELECT pg_copy_logical_replication_slot('origin', '{name}')", SECONDS)
        yield
        self.session.run(f"SELECT pg_drop_replication_slot('{name}')", SECONDS)

    def theirs(self, end: str, way: Way) -> tuple[float, int]:
        address = self.address if way == "unix" else ("-h", LOOPBACK, *self.address[2:])
        output = self.host.storage / "pg_recvlogical"
        options = ("-o", "proto_version=1", "-o", f"publication_names={source.NAME}")
        started = time.monotonic()
        self.host.run(
            "pg_recvlogical", *address, "-d", "postgres", "--slot", "theirs", "--start", "--no-loop",
            "--endpos", end, *options, "-f", str(output),
        )  # fmt: skip
        seconds = time.monotonic() - started
        size = output.stat().st_size
        output.unlink()
        return seconds, size

    def ours(self, folder: Path, way: Way) -> tuple[float, int]:
        with self.open_by(way) as session:
            archive = Archive(session, folder, 1, batch=10_000_000, patience=SECONDS)
            archive.prepare()
            started = time.monotonic()
            written = archive.step()
            seconds = time.monotonic() - started
        assert written is not None
        size = sum(path.stat().st_size for path in segment.segments(folder))
        shutil.rmtree(folder)
        return seconds, size

    def close(self) -> None:
        self.session.close()
        self.host.close()


@contextlib.contextmanager
def bench_in_a_folder() -> Iterator[tuple[Bench, Path]]:
    """A bench and a folder for what is measured; both are gone afterwards."""
    # Not in a folder of ours: PostgreSQL runs as another user when this runs as root, and must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="citizens-bench-"))
    folder.chmod(0o755)
    try:
        with contextlib.closing(Bench(folder / "state")) as bench:
            yield bench, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(load: str, runs: int) -> dict[Way, Figures]:
    with bench_in_a_folder() as (bench, folder):
        bench.load(load)
        return {way: bench.measure(runs, folder, way) for way in WAYS}


def transaction_log(runs: int, environment: Mapping[str, str]) -> dict[str, Result]:
    """Throughput and bytes of the archive beside pg_recvlogical's, for pgbench and for a load of COPYs; ≥ 5 runs."""
    del environment
    results = {}
    for load, suffix in (("pgbench", ""), ("copy", "_copy")):
        measured = _measured(load, max(runs, FEWEST_RUNS))
        for way, figures in measured.items():
            print(f"{load} by {way}: ours {sorted(figures.ours)} s, pg_recvlogical {sorted(figures.theirs)} s")
        ratios, by_socket = (measured[way].ratios() for way in WAYS)
        results[f"archive_vs_pg_recvlogical{suffix}"] = replace(
            median_of(ratios, RATIO_TARGET, "×", at_least=True),
            note=f"by TCP; by the Unix socket {statistics.median(by_socket):.2f} "
            f"({min(by_socket):.2f} – {max(by_socket):.2f})",
        )
        sizes = measured["tcp"].sizes()
        results[f"archive_bytes_vs_pg_recvlogical{suffix}"] = median_of(sizes, BYTES_TARGET, "×")
    return results
