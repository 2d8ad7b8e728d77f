"""The fleet: what the RDS service does with DB instances, with real PostgreSQL clusters on this machine."""

import atexit
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from local_cloud.automated_backups import (
    AutomatedBackup,
    BackupView,
    NotRestorableError,
    Pace,
    RecoverySource,
)
from local_cloud.certificates import CERTIFICATE_LIFETIME, CertificateAuthority
from local_cloud.cluster import ClusterError, Vitals, make_template
from local_cloud.endpoint import Admission, Caller, EndpointServer, Fault, TokenCheck, no_tokens
from local_cloud.instance import (
    EVENTS,
    Delays,
    FleetError,
    Instance,
    InstanceSpec,
    InstanceView,
    InterruptedWorkError,
    Origin,
    RdsEvent,
    Surroundings,
)
from local_cloud.parameters import unhonoured_parameters
from local_cloud.postgres_host import HostError, PostgresHost, remove, sweep

__all__ = [
    "Admission",
    "BackupView",
    "Caller",
    "Delays",
    "Fault",
    "Fleet",
    "FleetError",
    "InstanceSpec",
    "InstanceView",
    "RdsEvent",
    "Vitals",
    "sweep",
    "unhonoured_parameters",
]


class Fleet:
    """The DB instances of one local cloud. Methods may be called from any thread; refusals are FleetErrors with RDS's
    codes.
    """

    def __init__(
        self,
        state: Path,
        authority: CertificateAuthority,
        *,
        on_event: Callable[[RdsEvent], None],
        admission: Admission,
        tokens: TokenCheck = no_tokens,
        delays: Delays = Delays(),  # noqa: B008 - frozen
    ) -> None:
        self.delays = delays
        self._lock = threading.Lock()
        self._instances: dict[str, Instance] = {}
        self._backups: dict[str, AutomatedBackup] = {}
        self._snapshots: dict[str, Path] = {}
        self._lost_zones: set[str] = set()
        self._closed = threading.Event()
        self._host = PostgresHost(state)
        self._endpoints = EndpointServer(authority, admission, tokens)
        atexit.register(self.close)
        try:
            template = make_template(self._host)
        except HostError:
            self.close()
            raise
        self._surroundings = Surroundings(
            host=self._host,
            template=template,
            endpoints=self._endpoints,
            delays=lambda: self.delays,
            emit=on_event,
            replicas_of=self._replicas_of,
            keep_backups=self._keep_backups,
            zone_is_lost=self._lost_zones.__contains__,
        )
        self._emit = on_event

    def create(self, spec: InstanceSpec) -> InstanceView:
        """Create a DB instance; returns when it is available."""
        return self._create(Instance(spec, self._surroundings))

    def create_replica(self, spec: InstanceSpec, source_identifier: str) -> InstanceView:
        """Create a read replica of an instance that is available; returns when the replica is.

        With `multi_az` its copy cascades from it: asynchronous until the replica is promoted, synchronous from then on.
        """
        source = self._find(source_identifier)
        if source.status not in ("available", "backing-up"):
            raise FleetError("InvalidDBInstanceState", f"Instance {source_identifier} is {source.status}.")
        inherited = replace(
            spec,
            master_username=source.spec.master_username,
            master_password=source.spec.master_password,
            database=source.spec.database,
        )
        return self._create(Instance(inherited, self._surroundings, source))

    def promote(self, identifier: str) -> None:
        """Begin to promote a read replica.

        The status is `available` for a moment more, then `modifying`, `rebooting`, and `available` without a source.
        """
        self._find(identifier).promote()

    def reboot(self, identifier: str, *, force_failover: bool = False) -> None:
        """Begin a reboot; with `force_failover` by a failover to the Multi-AZ copy.

        A failover asked for before the last one has its new copy is abandoned (event 0034).
        """
        self._find(identifier).reboot(force_failover)

    def stop(self, identifier: str) -> None:
        """Begin to stop an instance that neither is nor has a read replica."""
        self._find(identifier).stop()

    def start(self, identifier: str) -> None:
        """Begin to start a stopped instance."""
        self._find(identifier).start()

    def back_up(self, identifier: str) -> None:
        """Begin a backup: the status is `backing-up` for `backing_up_seconds`."""
        self._find(identifier).back_up()

    def modify(
        self,
        identifier: str,
        *,
        master_password: str | None = None,
        security_groups: tuple[str, ...] | None = None,
        parameters: Mapping[str, str] | None = None,
        multi_az: bool | None = None,
        deletion_protection: bool | None = None,
        backup_retention_days: int | None = None,
    ) -> None:
        """Change an instance; returns when it is done, but for the retention. None leaves a property as it is.

        Security groups, deletion protection and retention change in any status; the rest needs `available`.
        """
        instance = self._find(identifier)
        if security_groups is not None or deletion_protection is not None:
            instance.change_access(security_groups, deletion_protection)
        if master_password is not None or parameters is not None or multi_az is not None:
            with _as_fleet_error(identifier):
                instance.modify(master_password, parameters, multi_az)
        if backup_retention_days is not None and backup_retention_days != instance.spec.backup_retention_days:
            instance.keep_backups_for(backup_retention_days)

    def delete(self, identifier: str, *, keep_backups: bool = False) -> None:
        """Delete an instance, its processes, its storage and, unless they are kept, its automated backups; returns
        when they are gone. Its read replicas are promoted.
        """
        instance = self._find(identifier)
        with _as_fleet_error(identifier):
            instance.delete(keep_backups=keep_backups)
        replicas = self._replicas_of(identifier)
        with self._lock:
            self._instances.pop(identifier, None)
        for replica in replicas:
            replica.source_was_deleted()

    # Backups ---------------------------------------------------------------------------------------------------------

    def backups(self) -> tuple[BackupView, ...]:
        """The automated backups of the instances that there are, and those that were kept of deleted ones."""
        with self._lock:
            backups = tuple(self._backups.values())
        return tuple(backup.view() for backup in backups if not backup.is_dropped)

    def drop_backup(self, resource_id: str) -> None:
        """Remove the automated backups that were kept of a deleted instance."""
        backup = self._find_backup(resource_id)
        if backup.view().status != "retained":
            raise FleetError("InvalidDBInstanceAutomatedBackupState", f"{resource_id} is the backup of an instance.")
        backup.drop()

    def restore(self, spec: InstanceSpec, resource_id: str, until: datetime | None) -> InstanceView:
        """Create an instance from the automated backups of another, as of a moment (None: the latest one); returns
        when it is available.
        """
        backup = self._find_backup(resource_id)
        try:
            with backup.restoring(until) as source:
                moment = source.until
        except NotRestorableError as error:
            raise FleetError("InvalidParameterValue", str(error)) from error
        names = {"source": backup.identifier, "target": spec.identifier}
        return self._create(
            Instance(
                spec,
                self._surroundings,
                origin=Origin(lambda: backup.restoring(moment), "RDS-EVENT-0019", names),
            )
        )

    def take_snapshot(self, identifier: str, snapshot: str) -> None:
        """Copy an instance's storage under the name of a snapshot; returns when that is complete."""
        instance = self._find(identifier)
        with self._lock:
            if snapshot in self._snapshots:
                raise FleetError("DBSnapshotAlreadyExists", f"Snapshot {snapshot} already exists.")
            folder = self._snapshots[snapshot] = self._host.storage / f"snapshot-{self._host.next_number()}"
        self._tell(snapshot, "RDS-EVENT-0040")
        try:
            with _as_fleet_error(identifier):
                instance.snapshot(folder)
        except FleetError:
            with self._lock:
                self._snapshots.pop(snapshot, None)
            remove(folder)
            raise
        self._tell(snapshot, "RDS-EVENT-0042")

    def drop_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot; one that does not exist is no error."""
        with self._lock:
            folder = self._snapshots.pop(snapshot, None)
        if folder is not None:
            remove(folder)
            self._tell(snapshot, "RDS-EVENT-0041")

    def restore_snapshot(self, spec: InstanceSpec, snapshot: str) -> InstanceView:
        """Create an instance from a snapshot; returns when it is available."""
        with self._lock:
            folder = self._snapshots.get(snapshot)
        if folder is None or not (folder / "PG_VERSION").exists():
            raise FleetError("InvalidDBSnapshotState", f"There is nothing of the snapshot {snapshot} to restore from.")
        source = contextlib.nullcontext(RecoverySource(folder))
        return self._create(
            Instance(spec, self._surroundings, origin=Origin(lambda: source, "RDS-EVENT-0043", {"snapshot": snapshot}))
        )

    def _keep_backups(self, instance: Instance) -> AutomatedBackup:
        backup = AutomatedBackup(
            self._host,
            instance.spec.identifier,
            instance.resource_id,
            instance.spec.backup_retention_days,
            primary=instance.primary,
            pace=lambda: Pace(self.delays.log_upload_seconds, self.delays.backup_interval_seconds),
        )
        with self._lock:
            self._backups = {key: each for key, each in self._backups.items() if not each.is_dropped}
            self._backups[instance.resource_id] = backup
        return backup

    def _find_backup(self, resource_id: str) -> AutomatedBackup:
        with self._lock:
            backup = self._backups.get(resource_id)
        if backup is None or backup.is_dropped:
            raise FleetError("DBInstanceAutomatedBackupNotFound", f"There is no automated backup of {resource_id}.")
        return backup

    def _tell(self, snapshot: str, event_id: str) -> None:
        category, message = EVENTS[event_id]
        self._emit(RdsEvent(snapshot, event_id, (category,), message, datetime.now(UTC), "db-snapshot"))

    # What there is, and what breaks it -------------------------------------------------------------------------------

    def describe(self, identifier: str) -> InstanceView:
        """An instance as it is at this moment; never waits for work in progress."""
        return self._find(identifier).view()

    def vitals(self, identifier: str) -> Vitals:
        """What an instance's server shows at this moment; waits as long as that is frozen."""
        with _as_fleet_error(identifier):
            return self._find(identifier).vitals()

    def renew_certificate(self, identifier: str, lifetime: timedelta = CERTIFICATE_LIFETIME) -> None:
        """Give an instance another server certificate, as RDS does when half of the old one's time is over."""
        self._find(identifier).renew_certificate(lifetime)

    def identifiers(self) -> tuple[str, ...]:
        """All instances, in order of creation."""
        with self._lock:
            return tuple(self._instances)

    def kill(self, identifier: str) -> None:
        """`kill -9` the instance's postmaster: a Multi-AZ instance fails over, another is restarted."""
        self._find(identifier).kill()

    def lose(self, identifier: str) -> None:
        """Kill an instance and its Multi-AZ copy for good and remove their storage; the status is `failed` after a
        while.
        """
        self._find(identifier).lose()

    def crash(self, identifier: str) -> None:
        """`kill -9` one process of the instance's server, which restarts by itself."""
        self._find(identifier).crash()

    def freeze(self, identifier: str) -> None:
        """SIGSTOP the instance's server; RDS does not notice."""
        self._find(identifier).freeze()

    def thaw(self, identifier: str) -> None:
        """Let a frozen server go on."""
        self._find(identifier).thaw()

    def pause_replay(self, identifier: str, paused: bool) -> None:
        """Let a read replica receive and not replay, or replay again."""
        self._find(identifier).pause_replay(paused)

    def fill(self, identifier: str) -> None:
        """Begin to shut an instance down because its storage is full; the status is `storage-full` at once."""
        self._find(identifier).fill()

    def lose_zone(self, zone: str) -> None:
        """Lose what is in an availability zone: Multi-AZ instances fail over, others wait for the zone."""
        self._lost_zones.add(zone)
        for identifier in self.identifiers():
            self._find(identifier).zone_was_lost(zone)

    def restore_zone(self, zone: str) -> None:
        """Bring a lost zone back."""
        self._lost_zones.discard(zone)
        for identifier in self.identifiers():
            self._find(identifier).zone_is_back()

    @property
    def lost_zones(self) -> frozenset[str]:
        """The zones that are lost at this moment."""
        return frozenset(self._lost_zones)

    def zones_beside(self, source_identifier: str, zones: Sequence[str]) -> tuple[str, ...]:
        """These zones, those first that work and that the source does not work in."""
        works_in = self._find(source_identifier).view().availability_zone
        return tuple(sorted(zones, key=lambda zone: (zone in self._lost_zones, zone == works_in)))

    def set_fault(self, identifier: str, fault: Fault) -> None:
        """Let a network fault between callers and the instance begin, or end (kind `none`)."""
        self._find(identifier).set_fault(fault)

    def close(self) -> None:
        """Stop every process, remove every socket, folder and file. Idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        atexit.unregister(self.close)
        self._endpoints.close()
        for instance in list(self._instances.values()):
            instance.close()
        self._host.close()

    def _create(self, instance: Instance) -> InstanceView:
        identifier = instance.spec.identifier
        with self._lock:
            if self._closed.is_set():
                raise FleetError("InternalFailure", "The fleet is closed.")
            if identifier in self._instances:
                raise FleetError("DBInstanceAlreadyExists", "DB instance already exists")
            self._instances[identifier] = instance
        try:
            with _as_fleet_error(identifier):
                instance.create()
        except FleetError:
            with contextlib.suppress(FleetError, InterruptedWorkError):
                instance.change_access(None, False)
                instance.delete()
            with self._lock:
                self._instances.pop(identifier, None)
            raise
        return instance.view()

    def _find(self, identifier: str) -> Instance:
        with self._lock:
            instance = self._instances.get(identifier)
        if instance is None:
            raise FleetError("DBInstanceNotFound", f"DBInstance {identifier} not found.")
        return instance

    def _replicas_of(self, identifier: str) -> tuple[Instance, ...]:
        with self._lock:
            instances = tuple(self._instances.values())
        return tuple(
            instance
            for instance in instances
            if instance.source is not None and instance.source.spec.identifier == identifier
        )


@contextlib.contextmanager
def _as_fleet_error(identifier: str) -> Iterator[None]:
    try:
        yield
    except (ClusterError, HostError, InterruptedWorkError) as error:
        raise FleetError("InternalFailure", f"{identifier}: {error}") from error
