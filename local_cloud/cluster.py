"""One PostgreSQL cluster: a data folder, a socket, a postmaster that is a child of ours."""

import contextlib
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg
from psycopg import sql

from local_cloud.postgres_host import HostError, PostgresHost, kill_below, remove, working_below

ADMINISTRATOR = "rdsadmin"
REPLICATOR = "rdsrepladmin"
INTERNAL_ROLES = (ADMINISTRATOR, REPLICATOR)
START_TIMEOUT_SECONDS = 60.0
# Replaying what was archived since a base backup.
RECOVERY_TIMEOUT_SECONDS = 600.0
STOP_TIMEOUT_SECONDS = 5.0
HALT_TIMEOUT_SECONDS = 3.0
SLOT_RELEASE_SECONDS = 5.0
# Line of postmaster.pid (from 0) that holds the state of the server.
STATUS_LINE = 7
WAL_SEGMENT = "[0-9A-F]" * 24

BASE_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    # What must survive is a kill of processes. What they wrote is in the kernel's page cache then, synced or not:
    # only a crash of the machine would need fsync, and no data outlives the local cloud.
    "fsync": "off",
    # Needed all the same: a base backup taken from a standby is refused without.
    "full_page_writes": "on",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_wal_senders": "25",
    "max_replication_slots": "20",
    "max_worker_processes": "12",
    "io_method": "sync",
    "min_wal_size": "32MB",
    "max_wal_size": "512MB",
    # A replica that follows its source to the source's Multi-AZ copy needs the last WAL, for which no slot was kept
    # there.
    "wal_keep_size": "256MB",
    "wal_level": "replica",
    "hot_standby": "on",
    "wal_retrieve_retry_interval": "100ms",
    "wal_receiver_status_interval": "1s",
    # RDS has it off as well: parameters come from the parameter group.
    "allow_alter_system": "off",
    "logging_collector": "off",
    "log_line_prefix": "%t:%r:%u@%d:[%p]:",
    "log_timezone": "UTC",
    "timezone": "UTC",
}

HOST_BASED_AUTHENTICATION = f"""\
# The socket's folder is private to the clusters' account; the endpoint refuses the internal roles from outside.
local all         {ADMINISTRATOR}     trust
local all         {REPLICATOR} trust
local replication {REPLICATOR} trust
# IAM database authentication: the endpoint, which alone can reach the socket, has them show a token (RDS: PAM).
local all         +rds_iam     trust
local replication +rds_iam     reject
local all         all          scram-sha-256
local replication all          scram-sha-256
"""

# One statement a line, as single-user mode reads them. The roles are those of an RDS instance.
TEMPLATE_SQL = f"""\
CREATE ROLE {REPLICATOR} LOGIN REPLICATION;
CREATE ROLE rds_replication NOLOGIN;
CREATE ROLE rds_password NOLOGIN;
CREATE ROLE rds_iam NOLOGIN;
CREATE ROLE rds_superuser NOLOGIN CREATEDB CREATEROLE;
GRANT pg_monitor, pg_signal_backend, pg_checkpoint, rds_replication, rds_password TO rds_superuser WITH ADMIN OPTION;
"""


class ClusterError(Exception):
    """A cluster did not do what it was asked; the message holds PostgreSQL's last words."""


@dataclass(frozen=True)
class Vitals:
    """What a cluster shows of itself: connections of clients, bytes, seconds that the newest replayed commit is old
    (a standby's), processor seconds that its living processes have used."""

    connections: int
    storage_bytes: int
    wal_bytes: int
    slot_lag_bytes: int
    replica_lag_seconds: float | None
    processor_seconds: float


class Cluster:
    """A cluster. Not thread-safe but for `kill`, `is_running` and `pid`.

    `on_exit(cluster)` is called from a thread of its own when the postmaster ends without `stop`, `kill` or `remove`
    having asked for it.
    """

    def __init__(self, host: PostgresHost, name: str, on_exit: Callable[["Cluster"], None]) -> None:
        self._host = host
        self._on_exit = on_exit
        self._number = host.next_number()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._exit_expected = True
        self.is_frozen = False
        self.directory = host.storage / f"{name}-{self._number}"
        self.data = self.directory / "data"
        self.log = self.directory / "postgresql.log"
        self.socket = host.sockets / f".s.PGSQL.{self._number}"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None when there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self.pid is not None

    def connection_info(self, application_name: str, slot: str) -> dict[str, str]:
        """The settings with which a standby streams from this cluster."""
        info = (
            f"host={self._host.sockets} port={self._number} user={REPLICATOR} dbname=postgres "
            f"application_name={application_name} connect_timeout=5"
        )
        return {"primary_conninfo": info, "primary_slot_name": slot}

    def create(self, template: Path) -> None:
        """Make the data folder from the fleet's template."""
        self._host.make_directory(self.directory)
        self._host.run("/bin/cp", "-R", str(template), str(self.data))

    def clone(self, source: "Cluster", slot: str) -> None:
        """Make the data folder by a base backup of `source`, to be started as its standby.

        WAL is kept from the start of the backup by the physical `slot` of the source, which must exist.
        """
        self._host.make_directory(self.directory)
        try:
            self._host.run(
                "pg_basebackup",
                *("-h", str(self._host.sockets), "-p", str(source._number), "-U", REPLICATOR, "-w"),
                *("-D", str(self.data), "-X", "stream", "-S", slot, "--checkpoint=fast", "--no-sync", "--no-manifest"),
            )
        except HostError as error:
            raise ClusterError(str(error)) from error
        self._host.write(self.data / "standby.signal", "")

    def back_up(self, folder: Path) -> None:
        """Write a base backup of this running cluster into `folder`, with all the WAL it needs. Raises ClusterError."""
        try:
            self._host.run(
                "pg_basebackup",
                *("-h", str(self._host.sockets), "-p", str(self._number), "-U", REPLICATOR, "-w"),
                *("-D", str(folder), "-X", "stream", "--checkpoint=fast", "--no-sync", "--no-manifest"),
            )
        except HostError as error:
            raise ClusterError(str(error)) from error

    def copy_backup(self, data: Path) -> None:
        """Make the data folder from a base backup."""
        self._host.make_directory(self.directory)
        self._host.run("/bin/cp", "-R", str(data), str(self.data))

    def recover(self, settings: Mapping[str, str], recovery: Mapping[str, str]) -> None:
        """Recover a base backup with archived WAL as the `recovery` settings say, then start as a primary."""
        self._host.write(self.data / "recovery.signal", "")
        # Nobody may look before the end; and settings of the source's need not be met then (`max_connections` ...).
        self.configure({**settings, **recovery, "hot_standby": "off", "recovery_target_action": "promote"})
        self.start(RECOVERY_TIMEOUT_SECONDS)
        self.stop()
        self.configure(settings)
        self.start()

    def close_segment(self) -> str:
        """Commit something, close the WAL segment it is in, and return that segment's name."""
        self.execute("SELECT pg_current_xact_id()")
        # Inserted, not yet flushed: PostgreSQL waits for no commit that changed nothing. The switch flushes it.
        rows = self.query("SELECT pg_walfile_name(pg_current_wal_insert_lsn() - 1::numeric)")
        self.execute("SELECT pg_switch_wal()")
        return str(rows[0][0])

    def unarchived_segments(self) -> tuple[Path, ...]:
        """The WAL files of a stopped cluster that its archiver had not come to."""
        ready = (self.data / "pg_wal" / "archive_status").glob("*.ready")
        return tuple(sorted(self.data / "pg_wal" / mark.stem for mark in ready))

    def configure(self, settings: Mapping[str, str]) -> None:
        """Write the configuration; a running cluster reloads it, what needs a restart waits for one."""
        if not self.data.exists():
            return
        merged = {
            **BASE_SETTINGS,
            **settings,
            "unix_socket_directories": str(self._host.sockets),
            "port": str(self._number),
        }
        lines = (f"{name} = '{_quoted(value)}'\n" for name, value in merged.items())
        self._host.write(self.data / "postgresql.conf", "".join(lines))
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    def start(self, patience: float = START_TIMEOUT_SECONDS) -> None:
        """Start the server and wait until it accepts connections. Raises ClusterError when it does not."""
        if self.is_running:
            return
        self.is_frozen = False
        # The server refuses to start beside backends of a killed predecessor, and these could still acknowledge
        # something.
        self.end_orphans()
        self._exit_expected = True
        try:
            process = self._process = self._host.start(["postgres", "-D", str(self.data)], self.log)
        except (HostError, OSError) as error:
            raise ClusterError(f"{self.directory.name} cannot start: {error}") from error
        watcher = self._watcher = threading.Thread(
            target=self._watch, args=(process,), name=f"watch-{self.directory.name}", daemon=True
        )
        watcher.start()
        deadline = time.monotonic() + patience
        while not self._accepts_connections(process.pid):
            if process.returncode is not None or time.monotonic() > deadline:
                self.kill()
                raise ClusterError(f"{self.directory.name} did not start: {self.last_words()}")
            time.sleep(0.01)
        self._exit_expected = False
        if process.returncode is not None:
            self._on_exit(self)

    def stop(self) -> None:
        """Stop in order (fast), by force when that takes too long."""
        self._exit_expected = True
        process = self._process
        if process is None:
            return
        self._ask(process, signal.SIGINT, STOP_TIMEOUT_SECONDS)
        self.halt()

    def halt(self) -> None:
        """Stop at once, without a checkpoint; the next start recovers."""
        self._exit_expected = True
        process = self._process
        if process is not None:
            # A postmaster that is asked to sees its backends off; those of a killed one linger until init notices.
            self._ask(process, signal.SIGQUIT, HALT_TIMEOUT_SECONDS)
        self.kill()

    def kill(self) -> None:
        """`kill -9` the postmaster, wait for its end, and end the backends it leaves."""
        self._exit_expected = True
        process = self._process
        if process is not None:
            self._ask(process, signal.SIGKILL, 10.0)
        self.end_orphans()

    def kill_postmaster(self) -> None:
        """`kill -9` the postmaster as somebody else would: `on_exit` is called."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def kill_backend(self) -> None:
        """`kill -9` the checkpointer: the postmaster ends every session and recovers, as after any crash."""
        ((pid,),) = self.query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        os.kill(int(str(pid)), signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP every process of the cluster: it keeps its connections and answers nobody until `thaw`, or an end."""
        self.is_frozen = True
        for process in working_below([self.data]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Let a frozen cluster go on where it stood."""
        for process in working_below([self.data]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self.is_frozen = False

    def pause_replay(self, paused: bool) -> None:
        """Let a standby receive WAL and not replay it; a promotion or a restart ends that."""
        self.execute("SELECT pg_wal_replay_pause()" if paused else "SELECT pg_wal_replay_resume()")

    def end_orphans(self) -> None:
        """End what a killed postmaster has left: nothing of this cluster writes or acknowledges after that."""
        if self.data.exists():
            kill_below([self.data])

    def promote(self) -> None:
        """End recovery; returns when the cluster accepts writes. Nothing happens when it does already."""
        if self.is_in_recovery():
            self.execute("SELECT pg_promote(true, 60)")

    def is_in_recovery(self) -> bool:
        """Whether the cluster is a standby."""
        return bool(self.query("SELECT pg_is_in_recovery()")[0][0])

    def has_standby(self, application_name: str) -> bool:
        """Whether a standby of that name has caught up and streams."""
        rows = self.query(
            "SELECT 1 FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'", [application_name]
        )
        return bool(rows)

    def timeline(self) -> int | None:
        """The timeline a primary writes or a standby receives; None when it receives nothing."""
        rows = self.query(
            "SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_wal_receiver)"
            " ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END"
        )
        timeline = rows[0][0]
        return timeline if isinstance(timeline, int) else None

    def keep_slot(self, name: str) -> None:
        """Make a physical replication slot, unless it is there."""
        self.execute(
            "SELECT pg_create_physical_replication_slot(%s, true)"
            " WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s)",
            [name, name],
        )

    def drop_slot(self, name: str) -> None:
        """Drop a replication slot, if it is there. Raises ClusterError when it stays in use."""
        deadline = time.monotonic() + SLOT_RELEASE_SECONDS
        while rows := self.query("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [name]):
            if rows[0][0] is None:
                self.execute("SELECT pg_drop_replication_slot(%s)", [name])
            elif time.monotonic() > deadline:
                raise ClusterError(f"{self.directory.name}: slot {name} is in use")
            else:
                # The sender notices a moment later that its standby is gone.
                time.sleep(0.02)

    def logical_slots(self) -> tuple[str, ...]:
        """The logical replication slots on disk; the cluster need not run."""
        slots = (self.data / "pg_replslot").glob("*/state")
        return tuple(sorted(slot.parent.name for slot in slots if _is_lasting_logical_slot(slot.read_bytes())))

    def adopt_logical_slots(self, former: "Cluster") -> None:
        """Take over the logical slots of a stopped cluster whose standby this one, stopped too, was until now.

        With them come what they decode with: the WAL that only the other has kept, and the snapshots at their
        positions.
        """
        wal = self.data / "pg_wal"
        kept = min((segment.name for segment in wal.glob(WAL_SEGMENT)), default="")
        folders = {
            self.data / "pg_replslot": [former.data / "pg_replslot" / name for name in former.logical_slots()],
            self.data / "pg_logical" / "snapshots": [*(former.data / "pg_logical" / "snapshots").glob("*.snap")],
            wal: [segment for segment in (former.data / "pg_wal").glob(WAL_SEGMENT) if segment.name < kept],
        }
        for folder, sources in folders.items():
            missing = [str(source) for source in sources if not (folder / source.name).exists()]
            if missing:
                self._host.run("/bin/cp", "-R", *missing, str(folder))

    def create_master(self, username: str, password: str, database: str) -> None:
        """Make the main user and the first database.

        RDS's main user holds `rds_superuser`, which may make FOR ALL TABLES publications and event triggers;
        PostgreSQL gives these to superusers only, so the main user is one here. What the product relies on stays
        within what RDS allows.
        """
        role = sql.Identifier(username)
        attributes: LiteralString = "CREATE ROLE {} LOGIN CREATEDB CREATEROLE REPLICATION SUPERUSER PASSWORD {}"
        with self._connect() as connection:
            connection.execute(sql.SQL(attributes).format(role, sql.Literal(password)))
            connection.execute(sql.SQL("GRANT rds_superuser TO {} WITH ADMIN OPTION").format(role))
            if database not in ("", "postgres"):
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), role),
                )

    def set_password(self, username: str, password: str) -> None:
        """Change a user's password."""
        statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(username), sql.Literal(password))
        with self._connect() as connection:
            connection.execute(statement)

    def query(self, statement: LiteralString, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run a query as the administrator. Raises ClusterError."""
        with self._connect() as connection:
            return connection.execute(statement, values).fetchall()

    def execute(self, statement: LiteralString, values: Sequence[object] = ()) -> None:
        """Run a statement as the administrator. Raises ClusterError."""
        with self._connect() as connection:
            connection.execute(statement, values)

    def vitals(self, without_slot: str) -> Vitals:
        """What cluster and processes show at this moment, its slot `without_slot` aside. Raises ClusterError."""
        ((connections, slot_lag, replica_lag),) = self.query(
            "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> %s),"
            " (SELECT coalesce(max(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()"
            " ELSE pg_current_wal_lsn() END, restart_lsn)), 0)::bigint"
            " FROM pg_replication_slots WHERE slot_name <> %s),"
            " CASE WHEN pg_is_in_recovery() THEN"
            " extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float END",
            [ADMINISTRATOR, without_slot],
        )
        return Vitals(
            connections=int(str(connections)),
            storage_bytes=_size(self.data),
            wal_bytes=_size(self.data / "pg_wal"),
            slot_lag_bytes=max(0, int(str(slot_lag))),
            replica_lag_seconds=None if replica_lag is None else max(0.0, float(str(replica_lag))),
            processor_seconds=sum(_processor_seconds(process) for process in working_below([self.data])),
        )

    def remove(self) -> None:
        """Halt the cluster and delete everything it had. Idempotent."""
        self.halt()
        remove(self.directory)
        self.socket.unlink(missing_ok=True)
        self.socket.with_name(self.socket.name + ".lock").unlink(missing_ok=True)

    def last_words(self) -> str:
        """The end of the server's log."""
        try:
            return self.log.read_text(errors="replace").strip()[-800:]
        except OSError:
            return "no log"

    @contextlib.contextmanager
    def _connect(self) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
        try:
            with psycopg.connect(
                host=str(self._host.sockets),
                port=self._number,
                user=ADMINISTRATOR,
                dbname="postgres",
                autocommit=True,
                connect_timeout=10,
                # An administrator's change must never wait for a Multi-AZ copy that may be gone.
                options="-c synchronous_commit=local -c statement_timeout=90s -c search_path=pg_catalog",
            ) as connection:
                yield connection
        except psycopg.Error as error:
            raise ClusterError(f"{self.directory.name}: {error}") from error

    def _ask(self, process: "subprocess.Popen[bytes]", request: signal.Signals, patience: float) -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, request)
            watcher = self._watcher
            if watcher is not None and watcher is not threading.current_thread():
                watcher.join(patience)

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        if not self._exit_expected:
            self._on_exit(self)

    def _accepts_connections(self, pid: int) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > STATUS_LINE and lines[0] == str(pid) and lines[STATUS_LINE].strip() == "ready"


def let_work(cluster_socket: Path, user: str) -> None:
    """Let members of RDS's groups do what RDS lets them, which PostgreSQL itself asks an attribute for: logical slots
    (rds_replication), and all that the main user may do (rds_superuser), who is a superuser here as well."""
    with psycopg.connect(
        host=str(cluster_socket.parent),
        port=cluster_socket.name.rpartition(".")[2],
        user=ADMINISTRATOR,
        dbname="postgres",
        autocommit=True,
        connect_timeout=10,
        options="-c synchronous_commit=local -c search_path=pg_catalog",
    ) as connection:
        lacks = connection.execute(
            "SELECT 1 FROM pg_roles WHERE rolname = %s AND NOT rolreplication AND NOT pg_is_in_recovery()"
            " AND pg_has_role(oid, 'rds_replication', 'MEMBER')",
            [user],
        )
        if lacks.fetchone():
            connection.execute(sql.SQL("ALTER ROLE {} REPLICATION").format(sql.Identifier(user)))
        lacks = connection.execute(
            "SELECT 1 FROM pg_roles AS mine WHERE rolname = %s AND NOT rolsuper AND NOT pg_is_in_recovery() AND EXISTS"
            " (SELECT FROM pg_auth_members WHERE member = mine.oid AND roleid = 'rds_superuser'::regrole)",
            [user],
        )
        if lacks.fetchone():
            connection.execute(sql.SQL("ALTER ROLE {} SUPERUSER").format(sql.Identifier(user)))


def make_template(host: PostgresHost) -> Path:
    """Make the data folder all clusters of a fleet start from: initdb takes a second, a copy does not.

    All clusters of a fleet therefore share one system identifier.
    """
    template = host.storage / "template"
    host.run(
        "initdb",
        *("-D", str(template), "-U", ADMINISTRATOR, "-A", "trust", "-E", "UTF8"),
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-sync", "--no-instructions"),
    )
    host.write(template / "pg_hba.conf", HOST_BASED_AUTHENTICATION)
    host.run("postgres", "--single", "-F", "-D", str(template), "postgres", stdin=TEMPLATE_SQL)
    return template


def _size(folder: Path) -> int:
    """Bytes in a folder in which files come and go."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(path) / name).stat().st_size
    return total


def _processor_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _is_lasting_logical_slot(state: bytes) -> bool:
    """Whether a slot's state file (ReplicationSlotOnDisk) is one of a logical slot that is neither temporary nor new.

    After 16 bytes of header come the slot's name (64 bytes), its database (0: a physical slot), its persistency (0).
    """
    database, persistency = struct.unpack_from("=II", state, 80)
    return (database != 0, persistency) == (True, 0)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
