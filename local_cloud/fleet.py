"""The fleet: what the RDS service does with DB instances, with real PostgreSQL clusters on this machine."""

import atexit
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from local_cloud.certificates import CertificateAuthority
from local_cloud.cluster import ClusterError, make_template
from local_cloud.endpoint import Admission, Caller, EndpointServer, Fault, TokenCheck, no_tokens
from local_cloud.instance import (
    Delays,
    FleetError,
    Instance,
    InstanceSpec,
    InstanceView,
    InterruptedWorkError,
    RdsEvent,
    Surroundings,
)
from local_cloud.parameters import unhonoured_parameters
from local_cloud.postgres_host import HostError, PostgresHost, sweep

__all__ = [
    "Admission",
    "Caller",
    "Delays",
    "Fault",
    "Fleet",
    "FleetError",
    "InstanceSpec",
    "InstanceView",
    "RdsEvent",
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
            zone_is_lost=self._lost_zones.__contains__,
        )

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
    ) -> None:
        """Change an instance; returns when it is done. None leaves a property as it is.

        Security groups and deletion protection change in any status; the rest needs `available`.
        """
        instance = self._find(identifier)
        if security_groups is not None or deletion_protection is not None:
            instance.change_access(security_groups, deletion_protection)
        if master_password is not None or parameters is not None or multi_az is not None:
            with _as_fleet_error(identifier):
                instance.modify(master_password, parameters, multi_az)

    def delete(self, identifier: str) -> None:
        """Delete an instance, its processes and its storage; returns when they are gone. Its read replicas are
        promoted.
        """
        instance = self._find(identifier)
        with _as_fleet_error(identifier):
            instance.delete()
        replicas = self._replicas_of(identifier)
        with self._lock:
            self._instances.pop(identifier, None)
        for replica in replicas:
            replica.source_was_deleted()

    def describe(self, identifier: str) -> InstanceView:
        """An instance as it is at this moment; never waits for work in progress."""
        return self._find(identifier).view()

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
