"""One DB instance: its status as RDS reports it, and the work that changes it, one piece at a time."""

import contextlib
import logging
import queue
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from local_cloud.automated_backups import AutomatedBackup, RecoverySource
from local_cloud.certificates import CERTIFICATE_LIFETIME
from local_cloud.cluster import Cluster, ClusterError, Vitals
from local_cloud.endpoint import EndpointServer, Fault, Rules
from local_cloud.multi_az import COPY_NAME, ClusterPair, Upstream
from local_cloud.parameters import forces_ssl
from local_cloud.postgres_host import HostError, PostgresHost

logger = logging.getLogger(__name__)

# After PromoteReadReplica the status stays `available` for seconds; here for this part of the promotion, at most so
# long.
PROMOTION_UNNOTICED_PART = 0.2
PROMOTION_UNNOTICED_SECONDS = 0.5
# The part of the promotion after which the replica accepts writes (then it reboots).
PROMOTION_MODIFYING_PART = 0.6
COPY_RETRY_SECONDS = 1.0
CREATION_ATTEMPTS = 4


@dataclass(frozen=True)
class InstanceSpec:
    """What CreateDBInstance says. A read replica takes `master_username`, `master_password` and `database` from its
    source.

    `availability_zones`: the zone of the instance, then the zone of its Multi-AZ copy. `backup_retention_days`: 0 for
    no automated backups; those of a read replica begin with its promotion.
    """

    identifier: str
    master_username: str
    master_password: str
    database: str
    port: int
    multi_az: bool
    parameters: Mapping[str, str]
    engine_version: str
    security_groups: tuple[str, ...]
    availability_zones: tuple[str, ...]
    deletion_protection: bool
    backup_retention_days: int = 0


@dataclass(frozen=True)
class Origin:
    """What an instance is restored from. `open` gives it and keeps it; `event` with `names` tells of the restore."""

    open: Callable[[], AbstractContextManager[RecoverySource]]
    event: str
    names: Mapping[str, str]


@dataclass(frozen=True)
class InstanceView:
    """What DescribeDBInstances says, and where the instance lives on this machine.

    `processes` are the process ids of the postmasters and `directories` the storage of the instance and of its
    Multi-AZ copy.
    """

    identifier: str
    status: str
    endpoint_address: str
    endpoint_port: int
    source_identifier: str | None
    replica_identifiers: tuple[str, ...]
    multi_az: bool
    availability_zone: str
    secondary_availability_zone: str | None
    resource_id: str
    master_username: str
    database: str
    security_groups: tuple[str, ...]
    processes: tuple[int, ...]
    directories: tuple[Path, ...]
    latest_restorable_time: datetime | None
    created_at: datetime
    certificate_ends: datetime | None


@dataclass(frozen=True)
class RdsEvent:
    """An event of RDS; `source_identifier` is the instance, or the snapshot when that is the `source_type`."""

    source_identifier: str
    event_id: str
    categories: tuple[str, ...]
    message: str
    at: datetime
    source_type: Literal["db-instance", "db-snapshot"] = "db-instance"


# Event id → category and message, as the list of RDS events has them.
EVENTS: Mapping[str, tuple[str, str]] = {
    "RDS-EVENT-0001": ("backup", "Backing up DB instance"),
    "RDS-EVENT-0002": ("backup", "Finished DB instance backup"),
    "RDS-EVENT-0003": ("deletion", "DB instance deleted"),
    "RDS-EVENT-0004": ("availability", "DB instance shutdown"),
    "RDS-EVENT-0005": ("creation", "DB instance created"),
    "RDS-EVENT-0006": ("availability", "DB instance restarted"),
    "RDS-EVENT-0013": ("failover", "Multi-AZ instance failover started."),
    "RDS-EVENT-0016": ("configuration change", "Reset master credentials"),
    "RDS-EVENT-0019": ("restoration", "Restored from DB instance {source} to {target}."),
    "RDS-EVENT-0024": ("configuration change", "The DB instance is being converted to a Multi-AZ DB instance."),
    "RDS-EVENT-0025": ("configuration change", "The DB instance has been converted to a Multi-AZ DB instance."),
    "RDS-EVENT-0030": ("configuration change", "The DB instance has been converted to a Single-AZ DB instance."),
    "RDS-EVENT-0031": (
        "failure",
        "DB instance put into failed state. RDS recommends that you initiate a point-in-time-restore.",
    ),
    "RDS-EVENT-0034": (
        "failover",
        "Abandoning user requested failover since a failover recently occurred on the database instance.",
    ),
    "RDS-EVENT-0040": ("creation", "Creating manual snapshot."),
    "RDS-EVENT-0041": ("deletion", "Deleted user snapshot."),
    "RDS-EVENT-0042": ("creation", "Manual snapshot created."),
    "RDS-EVENT-0043": ("restoration", "Restored from snapshot {snapshot}."),
    "RDS-EVENT-0045": ("read replica", "Replication has stopped."),
    "RDS-EVENT-0046": ("read replica", "Replication for the Read Replica resumed."),
    "RDS-EVENT-0049": ("failover", "Multi-AZ instance failover completed."),
    "RDS-EVENT-0087": ("notification", "DB instance stopped."),
    "RDS-EVENT-0088": ("notification", "DB instance started."),
    "RDS-EVENT-0221": (
        "availability",
        "DB instance has reached the storage-full threshold, and the database has been shut down.",
    ),
}


# The database is down and stays down until somebody does something about it.
DOWN = ("stopping", "stopped", "storage-full")


@dataclass(frozen=True)
class Delays:
    """How long RDS takes, in seconds. The real numbers are minutes; these are for rehearsals.

    creation: until a new instance is available; promotion: from the call to `available` as a primary;
    multi_az_failover: the endpoint is down so long; failed_after: from the loss of an instance to its status
    `failed`; reboot; backing_up: length of a backup (0: as long as it takes); log_upload: how far the latest restorable
    time may lag; backup_interval: from one automated base backup to the next.
    """

    creation_seconds: float = 0.0
    promotion_seconds: float = 1.0
    multi_az_failover_seconds: float = 2.0
    failed_after_seconds: float = 2.0
    reboot_seconds: float = 0.5
    backing_up_seconds: float = 0.0
    log_upload_seconds: float = 300.0
    backup_interval_seconds: float = 86_400.0


class FleetError(Exception):
    """A request RDS would refuse; `code` is RDS's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class InterruptedWorkError(Exception):
    """The instance was lost, deleted or closed while it was at work."""


@dataclass(frozen=True)
class Surroundings:
    """What the instances of a fleet share. `replicas_of(identifier)` lists the read replicas of an instance;
    `keep_backups` makes what keeps the backups of one.
    """

    host: PostgresHost
    template: Path
    endpoints: EndpointServer
    delays: Callable[[], Delays]
    emit: Callable[[RdsEvent], None]
    replicas_of: Callable[[str], Iterable["Instance"]]
    keep_backups: Callable[["Instance"], AutomatedBackup]
    zone_is_lost: Callable[[str], bool] = lambda _: False


class Instance:
    """A DB instance. Requests check and set the status at once; the work is done by the instance's own thread, in
    order.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        surroundings: Surroundings,
        source: "Instance | None" = None,
        origin: Origin | None = None,
    ) -> None:
        self.spec = spec
        self.source = source
        self.backup: AutomatedBackup | None = None
        self._origin = origin
        self.status = "creating"
        self.resource_id = "db-" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(26))
        self.created_at = datetime.now(UTC)
        self._around = surroundings
        self._gate = threading.Lock()
        self._zones = spec.availability_zones
        self._endpoint = ("", spec.port)
        self._lost_at: datetime | None = None
        self._interrupted = threading.Event()
        self._ended = threading.Event()
        self._promoting = False
        self._pair = ClusterPair(
            surroundings.host,
            spec.identifier,
            spec.parameters,
            on_main_exit=self._main_exited,
            on_copy_exit=self._copy_exited,
        )
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._do_work, name=f"rds-{spec.identifier}", daemon=True).start()

    @property
    def slot(self) -> str:
        """The replication slot a replica uses at its source; named after the resource, as RDS does it."""
        return "rds_" + self.resource_id.lower().replace("-", "_")

    def view(self) -> InstanceView:
        """The instance as it is at this moment; never waits."""
        spec, zones, source = self.spec, self._zones, self.source
        clusters = self._pair.clusters
        pids = (cluster.pid for cluster in clusters)
        return InstanceView(
            identifier=spec.identifier,
            status=self.status,
            endpoint_address=self._endpoint[0],
            endpoint_port=self._endpoint[1],
            source_identifier=source.spec.identifier if source is not None else None,
            replica_identifiers=tuple(replica.spec.identifier for replica in self._around.replicas_of(spec.identifier)),
            multi_az=spec.multi_az,
            availability_zone=zones[0] if zones else "",
            secondary_availability_zone=zones[1] if spec.multi_az and len(zones) > 1 else None,
            resource_id=self.resource_id,
            master_username=spec.master_username,
            database=spec.database,
            security_groups=spec.security_groups,
            processes=tuple(pid for pid in pids if pid is not None),
            directories=tuple(cluster.directory for cluster in clusters),
            latest_restorable_time=self.backup.latest_restorable_time if self.backup is not None else None,
            created_at=self.created_at,
            certificate_ends=self._around.endpoints.certificate_ends(spec.identifier),
        )

    def vitals(self) -> Vitals:
        """What the server behind the endpoint shows; waits as long as that is frozen. Raises ClusterError."""
        return self._running_main().vitals(without_slot=COPY_NAME)

    def primary(self) -> Cluster | None:
        """The cluster that a backup is made of: none while this is a read replica."""
        return self._pair.main if self.source is None else None

    # Requests: each returns or raises at once, unless it says otherwise.

    def create(self) -> None:
        """Create the instance; returns when it is available."""
        self._submit(self._create).result()

    def promote(self) -> None:
        """Begin to make a read replica an instance of its own."""
        with self._gate:
            if self.source is None:
                raise self._refusal("is not a read replica")
            if self._promoting:
                raise self._refusal("is being promoted already")
            self._require("available")
            self._promoting = True
        self._submit(self._promote)

    def source_was_deleted(self) -> None:
        """RDS promotes the replicas of a deleted source."""
        with self._gate:
            if self.source is None or self._promoting:
                return
            self._promoting = True
        self._submit(self._promote)

    def reboot(self, force_failover: bool) -> None:
        """Begin a restart, or a failover to the Multi-AZ copy."""
        with self._gate:
            self._require("available")
            if force_failover and not self.spec.multi_az:
                raise FleetError(
                    "InvalidParameterCombination", "Cannot specify ForceFailover when the instance is not Multi-AZ."
                )
            self.status = "rebooting"
        if not force_failover:
            self._submit(self._reboot)
        elif self._pair.has_live_copy:
            self._submit(self._fail_over_on_request)
        else:
            self._submit(self._abandon_failover)

    def stop(self) -> None:
        """Begin to stop."""
        with self._gate:
            if self.source is not None or any(self._around.replicas_of(self.spec.identifier)):
                raise self._refusal("is a read replica or has one: it cannot be stopped")
            self._require("available")
            self.status = "stopping"
        self._submit(self._stop)

    def start(self) -> None:
        """Begin to start."""
        with self._gate:
            self._require("stopped")
            self.status = "starting"
        self._submit(self._start)

    def back_up(self) -> None:
        """Begin a backup: the status is `backing-up` for a while."""
        with self._gate:
            self._require("available")
            self.status = "backing-up"
        self._submit(self._back_up)

    def change_access(self, security_groups: tuple[str, ...] | None, deletion_protection: bool | None) -> None:
        """Change what needs no work on the database, in any status."""
        with self._gate:
            if security_groups is not None:
                self.spec = replace(self.spec, security_groups=security_groups)
            if deletion_protection is not None:
                self.spec = replace(self.spec, deletion_protection=deletion_protection)
        self._set_rules()

    def modify(self, master_password: str | None, parameters: Mapping[str, str] | None, multi_az: bool | None) -> None:
        """Change the database; returns when it is done."""
        with self._gate:
            self._require("available")
            if master_password is not None and self.source is not None:
                raise self._refusal("is a read replica: its master password is its source's")
            self.status = "modifying"
        self._submit(lambda: self._modify(master_password, parameters, multi_az)).result()

    def keep_backups_for(self, days: int) -> None:
        """Begin to keep automated backups for so many days; 0 removes them."""
        with self._gate:
            self.spec = replace(self.spec, backup_retention_days=days)
        self._submit(self._set_retention)

    def snapshot(self, folder: Path) -> None:
        """Write a base backup into `folder`; returns when it is complete. The status is `backing-up` meanwhile."""
        with self._gate:
            self._require("available")
            self.status = "backing-up"
        self._submit(lambda: self._take_snapshot(folder)).result()

    def kill(self) -> None:
        """`kill -9` the postmaster behind the endpoint, and look the other way."""
        self._running_main().kill_postmaster()

    def crash(self) -> None:
        """`kill -9` one process of the server, which then restarts by itself."""
        self._running_main().kill_backend()

    def freeze(self) -> None:
        """SIGSTOP the server behind the endpoint: RDS looks at other things, and notices nothing."""
        self._running_main().freeze()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._running_main().thaw()

    def pause_replay(self, paused: bool) -> None:
        """Let a read replica receive and not replay, or replay again."""
        if self.source is None:
            raise self._refusal("is not a read replica")
        self._running_main().pause_replay(paused)

    def fill(self) -> None:
        """Fill the storage: RDS shuts the database down, and its synchronous copy has the same storage."""
        with self._gate:
            self._require("available")
            self.status = "storage-full"
        self._submit(self._fill)

    def zone_was_lost(self, zone: str) -> None:
        """What of the instance was in the zone is dead; RDS fails over when that was what is behind the endpoint."""
        self._zone_lost_at_work(zone)

    def zone_is_back(self) -> None:
        """What could not be there may be built again."""
        self._submit(self._recover)
        self._submit(self._ensure_copy)

    def lose(self) -> None:
        """Lose instance, copy and storage for good; returns when all is dead. Nothing more can be lost after that."""
        with self._gate:
            if self._lost_at is not None:
                return
            self._lost_at = datetime.now(UTC)
        self._interrupted.set()
        self._around.endpoints.set_target(self.spec.identifier, None)
        self._pair.kill()
        self._around.endpoints.disconnect(self.spec.identifier)
        removed: Future[None] = Future()
        self._submit(lambda: self._lose(removed), even_if_gone=True)
        removed.result(60)

    def delete(self, *, keep_backups: bool = False) -> None:
        """Delete the instance; returns when nothing of it is left but, if asked, its automated backups."""
        with self._gate:
            if self.spec.deletion_protection:
                raise FleetError(
                    "InvalidParameterCombination",
                    "Cannot delete protected DB Instance, please disable deletion protection and try again.",
                )
            if self.status == "deleting":
                raise self._refusal("is being deleted already")
            self.status = "deleting"
        self._halt()
        self._submit(lambda: self._delete(keep_backups), even_if_gone=True).result()
        self._work.put(None)

    def renew_certificate(self, lifetime: timedelta = CERTIFICATE_LIFETIME) -> None:
        """Give the endpoint another server certificate, for connections to come."""
        self._around.endpoints.renew_certificate(self.spec.identifier, lifetime)

    def set_fault(self, fault: Fault) -> None:
        """Let a network fault begin or end."""
        self._around.endpoints.set_fault(self.spec.identifier, fault)

    def close(self) -> None:
        """End everything at once, without ceremony: the fleet closes. Idempotent."""
        self._halt()
        self._work.put(None)
        if self.backup is not None:
            self.backup.stop()
        with contextlib.suppress(OSError):
            self._pair.halt()

    # Work, done by the instance's thread.

    def _create(self) -> None:
        started = time.monotonic()
        delays = self._around.delays()
        self._endpoint = self._around.endpoints.open(self.spec.identifier, self._rules())
        if self.spec.backup_retention_days > 0:
            self.backup = self._around.keep_backups(self)
            self._pair.archive_to(self.backup)
        if self._origin is not None:
            with self._origin.open() as source:
                self._pair.restore(source)
        elif self.source is None:
            self._pair.create(
                self._around.template, self.spec.master_username, self.spec.master_password, self.spec.database
            )
        else:
            self._insistently(lambda: self._pair.clone(self._upstream()))
        if self.spec.multi_az:
            self._insistently(self._pair.build_copy)
        self._wait_until(started + delays.creation_seconds)
        if self._origin is None:
            self._emit("RDS-EVENT-0005")
        else:
            self._emit(self._origin.event, **self._origin.names)
        self._aim()
        self.status = "backing-up"
        if (self.backup is not None and self.primary() is not None) or delays.backing_up_seconds > 0:
            self._back_up()
        if self.backup is not None:
            self.backup.begin()
        self._become_available()

    def _promote(self) -> None:
        started, seconds = time.monotonic(), self._around.delays().promotion_seconds
        try:
            self._wait_until(started + min(seconds * PROMOTION_UNNOTICED_PART, PROMOTION_UNNOTICED_SECONDS))
            self.status = "modifying"
            self._wait_until(started + seconds * PROMOTION_MODIFYING_PART)
            self._persist(self._pair.promote)
            self.status = "rebooting"
            self._emit("RDS-EVENT-0004")
            self._persist(self._pair.restart)
            self._wait_until(started + seconds)
            self._aim()
            self._emit("RDS-EVENT-0006")
            self.source = None
            self._become_available()
        finally:
            self._promoting = False

    def _reboot(self) -> None:
        started = time.monotonic()
        self._aim(nowhere=True)
        self._emit("RDS-EVENT-0004")
        self._persist(self._pair.restart)
        self._wait_until(started + self._around.delays().reboot_seconds)
        self._aim()
        self._emit("RDS-EVENT-0006")
        self._become_available()

    def _fail_over_on_request(self) -> None:
        self._fail_over()
        self._become_available()

    def _abandon_failover(self) -> None:
        self._emit("RDS-EVENT-0034")
        self._become_available()

    def _fail_over(self) -> None:
        started = time.monotonic()
        self._aim(nowhere=True)
        self._emit("RDS-EVENT-0013")
        self._pair.fail_over()
        self._wait_until(started + self._around.delays().multi_az_failover_seconds)
        self._zones = tuple(reversed(self._zones))
        self._aim()
        self._emit("RDS-EVENT-0049")
        self._submit(self._ensure_copy)
        for replica in self._around.replicas_of(self.spec.identifier):
            replica.source_moved()

    def _recover(self) -> None:
        """Bring the instance back after its main cluster died: what RDS does by itself, without a change of the
        status.
        """
        main = self._pair.main
        if main is None or main.is_running or self._interrupted.is_set() or self.status in DOWN:
            return
        if self._pair.has_live_copy:
            try:
                self._fail_over()
            except ClusterError as error:
                logger.warning("the failover of %s ends with a restart: %s", self.spec.identifier, error)
            else:
                return
        if self._around.zone_is_lost(self._zones[0]):
            return
        started = time.monotonic()
        self._pair.revive()
        self._wait_until(started + self._around.delays().reboot_seconds)
        self._aim()
        self._emit("RDS-EVENT-0006")
        self._submit(self._ensure_copy)

    def source_moved(self) -> None:
        """The source has another cluster behind its endpoint now: follow it."""
        self._submit(self._follow_source)

    def _follow_source(self) -> None:
        if self.source is None or self._pair.main is None:
            return
        upstream = self._upstream()
        if not self._pair.follow(upstream):
            # It has more than the source's copy had, or lacks WAL the copy never kept: RDS rebuilds such a replica as
            # well.
            self._emit("RDS-EVENT-0045")
            self._aim(nowhere=True)
            self._pair.clone(upstream)
            self._aim()
            self._emit("RDS-EVENT-0046")
        self._ensure_copy()

    def _ensure_copy(self) -> None:
        main = self._pair.main
        if not self.spec.multi_az or self._pair.has_live_copy or main is None or not main.is_running:
            return
        if any(self._around.zone_is_lost(zone) for zone in self._zones):
            return  # a copy in the same zone would be none
        try:
            self._pair.build_copy()
        except (ClusterError, HostError) as error:
            logger.warning("the Multi-AZ copy of %s is built again: %s", self.spec.identifier, error)
            self._wait_until(time.monotonic() + COPY_RETRY_SECONDS)
            self._submit(self._ensure_copy)

    def _stop(self) -> None:
        self._aim(nowhere=True)
        self._pair.stop()
        self._emit("RDS-EVENT-0087")
        self.status = "stopped"

    def _start(self) -> None:
        self._pair.revive()
        self._pair.start_copy()
        self._aim()
        self._emit("RDS-EVENT-0088")
        self._become_available()

    def _back_up(self) -> None:
        started = time.monotonic()
        self._emit("RDS-EVENT-0001")
        primary = self.primary()
        if self.backup is not None and primary is not None:
            self.backup.back_up(primary)
        self._wait_until(started + self._around.delays().backing_up_seconds)
        self._emit("RDS-EVENT-0002")
        self._become_available()

    def _take_snapshot(self, folder: Path) -> None:
        started = time.monotonic()
        self._pair.living_main().back_up(folder)
        self._wait_until(started + self._around.delays().backing_up_seconds)
        self._become_available()

    def _modify(self, master_password: str | None, parameters: Mapping[str, str] | None, multi_az: bool | None) -> None:
        try:
            if parameters is not None:
                self.spec = replace(self.spec, parameters=dict(parameters))
                self._pair.set_parameters(parameters)
                self._set_rules()
            if master_password is not None:
                self.spec = replace(self.spec, master_password=master_password)
                self._persist(self._set_password)
                self._emit("RDS-EVENT-0016")
            if multi_az is not None and multi_az != self.spec.multi_az:
                self._set_multi_az(multi_az)
        finally:
            self._become_available()

    def _set_retention(self) -> None:
        days = self.spec.backup_retention_days
        if self.backup is not None:
            self.backup.retention_days = days
            if days == 0:
                backup, self.backup = self.backup, None
                self._pair.archive_to(None)
                backup.drop()
        elif days > 0:
            self.backup = self._around.keep_backups(self)
            self._pair.archive_to(self.backup)
            self.backup.begin()

    def _set_password(self) -> None:
        if self._pair.main is not None:
            self._pair.main.set_password(self.spec.master_username, self.spec.master_password)

    def _set_multi_az(self, multi_az: bool) -> None:
        self.spec = replace(self.spec, multi_az=multi_az)
        if multi_az:
            self._emit("RDS-EVENT-0024")
            self._pair.build_copy()
            self._emit("RDS-EVENT-0025")
        else:
            self._pair.drop_copy()
            self._emit("RDS-EVENT-0030")

    def _fill(self) -> None:
        self._aim(nowhere=True)
        self._around.endpoints.disconnect(self.spec.identifier)
        self._pair.stop()
        self._emit("RDS-EVENT-0221")

    def _zone_lost_at_work(self, zone: str) -> None:
        main, copy = self._pair.main, self._pair.copy
        if self._zones and self._zones[0] == zone and main is not None:
            self._around.endpoints.set_target(self.spec.identifier, None)
            main.kill_postmaster()
            # Backends outlive their postmaster for a moment; a zone that is gone acknowledges nothing.
            main.end_orphans()
            self._around.endpoints.disconnect(self.spec.identifier)
        elif zone in self._zones and copy is not None:
            copy.kill_postmaster()

    def _running_main(self) -> Cluster:
        main = self._pair.main
        if main is None or not main.is_running:
            raise self._refusal("is not running")
        return main

    def _lose(self, removed: "Future[None]") -> None:
        deadline = time.monotonic() + self._around.delays().failed_after_seconds
        try:
            self._pair.remove()
        finally:
            removed.set_result(None)
        if self._ended.wait(max(0.0, deadline - time.monotonic())):
            return
        with self._gate:
            if self.status != "deleting":
                self.status = "failed"
        self._emit("RDS-EVENT-0031")
        for replica in self._around.replicas_of(self.spec.identifier):
            replica.report("RDS-EVENT-0045")

    def _delete(self, keep_backups: bool) -> None:
        self._around.endpoints.close_endpoint(self.spec.identifier)
        self._pair.remove()
        self._pair.release_upstream()
        if self.backup is not None:
            (self.backup.retain if keep_backups else self.backup.drop)()
        self._emit("RDS-EVENT-0003")

    def report(self, event_id: str) -> None:
        """Emit an event of this instance."""
        self._submit(lambda: self._emit(event_id))

    # How work is done.

    def _submit(self, work: Callable[[], None], *, even_if_gone: bool = False) -> "Future[None]":
        def unless_gone() -> None:
            self._wait_until(0.0)
            work()

        future: Future[None] = Future()
        self._work.put((work if even_if_gone else unless_gone, future))
        return future

    def _do_work(self) -> None:
        while (item := self._work.get()) is not None:
            work, future = item
            try:
                work()
            except InterruptedWorkError as error:
                future.set_exception(error)
            except Exception as error:
                if not self._ended.is_set():
                    logger.exception("work on %s failed", self.spec.identifier)
                    self._give_up()
                future.set_exception(error)
            else:
                future.set_result(None)

    def _give_up(self) -> None:
        """After work that failed: an instance that runs is available, one that could not be brought back failed."""
        main = self._pair.main
        if self._interrupted.is_set():
            return
        if main is not None and main.is_running:
            self._aim()
            self._become_available()
            return
        with self._gate:
            if self.status in ("creating", "deleting", "failed", *DOWN):
                return
            self.status = "failed"
        self._emit("RDS-EVENT-0031")

    def _insistently(self, work: Callable[[], None]) -> None:
        """Do again what fails while the source fails over."""
        for _ in range(CREATION_ATTEMPTS - 1):
            try:
                work()
            except ClusterError as error:
                logger.warning("%s is tried again: %s", self.spec.identifier, error)
                self._wait_until(time.monotonic() + COPY_RETRY_SECONDS)
            else:
                return
        work()

    def _persist(self, work: Callable[[], None]) -> None:
        """Do something with the main cluster; bring the cluster back and do it again when it died meanwhile."""
        try:
            work()
        except Exception:
            main = self._pair.main
            if main is None or main.is_running or self._interrupted.is_set():
                raise
            if self._pair.has_live_copy:
                self._fail_over()
            else:
                self._pair.revive()
            work()

    def _main_exited(self, cluster: Cluster) -> None:
        """Called in the thread that saw the postmaster die."""
        if cluster is self._pair.main and not self._interrupted.is_set():
            self._around.endpoints.set_target(self.spec.identifier, None)
            self._submit(self._recover)

    def _copy_exited(self, _: Cluster) -> None:
        self._submit(self._ensure_copy)

    def _aim(self, *, nowhere: bool = False) -> None:
        main = self._pair.main
        self._around.endpoints.set_target(
            self.spec.identifier, None if nowhere or main is None or not main.is_running else main.socket
        )

    def _become_available(self) -> None:
        with self._gate:
            if self.status not in ("creating", "deleting", "failed", *DOWN) and not self._interrupted.is_set():
                self.status = "available"

    def _wait_until(self, moment: float) -> None:
        if self._interrupted.wait(max(0.0, moment - time.monotonic())):
            raise InterruptedWorkError(f"{self.spec.identifier} is gone")

    def _halt(self) -> None:
        self._interrupted.set()
        self._ended.set()

    def _upstream(self) -> Upstream:
        main = self.source._pair.main if self.source is not None else None
        if main is None:
            raise ClusterError(f"the source of {self.spec.identifier} is gone")
        return Upstream(main, self.slot)

    def _rules(self) -> Rules:
        return Rules(self.spec.security_groups, self._endpoint[1], forces_ssl(self.spec.parameters))

    def _set_rules(self) -> None:
        self._around.endpoints.set_rules(self.spec.identifier, self._rules())

    def _emit(self, event_id: str, **names: str) -> None:
        category, message = EVENTS[event_id]
        identifier = self.spec.identifier
        event = RdsEvent(identifier, event_id, (category,), message.format(**names), datetime.now(UTC))
        try:
            self._around.emit(event)
        except Exception:
            logger.exception("the listener failed at %s", event)

    def _require(self, status: str) -> None:
        if self.status != status:
            raise self._refusal(f"is not in {status} state, it is {self.status}")

    def _refusal(self, reason: str) -> FleetError:
        return FleetError("InvalidDBInstanceState", f"Instance {self.spec.identifier} {reason}.")
