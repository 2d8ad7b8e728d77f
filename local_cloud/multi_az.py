"""The clusters of one DB instance: the one behind the endpoint and, for Multi-AZ, its synchronous copy."""

import contextlib
import logging
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cloud.automated_backups import NO_ARCHIVE, PACKED, AutomatedBackup, RecoverySource
from local_cloud.cluster import Cluster, ClusterError
from local_cloud.parameters import honoured_settings
from local_cloud.postgres_host import PostgresHost

logger = logging.getLogger(__name__)

# Slot and application name of the Multi-AZ copy at its main cluster.
COPY_NAME = "rds_multi_az"
CATCH_UP_SECONDS = 30.0
# A replica that can follow its source's new cluster does so within a second; one that cannot never will.
FOLLOW_SECONDS = 3.0


@dataclass(frozen=True)
class Upstream:
    """What the cluster of a read replica streams from: the source's main cluster, through a slot named after the
    replica.
    """

    cluster: Cluster
    slot: str


class ClusterPair:
    """Main cluster and Multi-AZ copy of an instance.

    The copy is synchronous: a commit is acknowledged when both have it. The copy of a read replica cascades from it;
    it is asynchronous until the replica is promoted (a standby acknowledges no commits) and synchronous from the
    first commit afterwards.

    One thread changes a pair; `kill`, `release_commits` and the attributes may be used from others. `on_main_exit`
    and `on_copy_exit` are called when a cluster's postmaster ended by itself.
    """

    def __init__(
        self,
        host: PostgresHost,
        name: str,
        parameters: Mapping[str, str],
        *,
        on_main_exit: Callable[[Cluster], None],
        on_copy_exit: Callable[[Cluster], None],
    ) -> None:
        self._host = host
        self._name = name
        self._parameters = honoured_settings(parameters)
        self._backup: AutomatedBackup | None = None
        self._on_main_exit = on_main_exit
        self._on_copy_exit = on_copy_exit
        self._configuring = threading.RLock()
        self._copy_is_synchronous = False
        self.upstream: Upstream | None = None
        self.main: Cluster | None = None
        self.copy: Cluster | None = None

    @property
    def _settings(self) -> dict[str, str]:
        """What both clusters are configured with: the copy archives from the moment it takes over."""
        command = self._backup.archive_command if self._backup is not None else NO_ARCHIVE
        return {**self._parameters, "archive_mode": "on", "archive_command": command}

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """Main cluster, then copy, as far as they exist."""
        return tuple(cluster for cluster in (self.main, self.copy) if cluster is not None)

    @property
    def has_live_copy(self) -> bool:
        """Whether a failover would find a copy."""
        return self.copy is not None and self.copy.is_running and self._copy_is_synchronous

    def create(self, template: Path, username: str, password: str, database: str) -> None:
        """Make and start the main cluster of a new primary."""
        main = self.main = self._new_cluster()
        main.create(template)
        self._configure_main()
        main.start()
        main.create_master(username, password, database)

    def restore(self, source: RecoverySource) -> None:
        """Make and start the main cluster of a new primary from a backup."""
        main = self.main = self._new_cluster()
        main.copy_backup(source.data)
        if source.wal is None or source.until is None:
            self._configure_main()
            main.start()
            # A backup that was taken from a read replica.
            main.promote()
            return
        unpack = f"gunzip -c {shlex.quote(str(source.wal)).replace('%', '%%')}/%f{PACKED} > %p"
        recovery = {"restore_command": unpack, "recovery_target_time": source.until.isoformat()}
        main.recover(self._settings, recovery)

    def archive_to(self, backup: AutomatedBackup | None) -> None:
        """Send the WAL of whichever cluster is the main one to a backup from now on, or to none."""
        with self._configuring:
            self._backup = backup
            self._configure_main()
            self._configure_copy()

    def clone(self, upstream: Upstream) -> None:
        """Make and start the main cluster of a read replica by a base backup of `upstream`; what was before is
        removed.
        """
        self.drop_copy()
        if self.main is not None:
            self.main.remove()
        self.upstream = upstream
        upstream.cluster.drop_slot(upstream.slot)
        upstream.cluster.keep_slot(upstream.slot)
        main = self.main = self._new_cluster()
        main.clone(upstream.cluster, upstream.slot)
        self._configure_main()
        main.start()
        _wait_for_standby(upstream.cluster, upstream.slot, CATCH_UP_SECONDS)

    def build_copy(self) -> None:
        """Make the copy by a base backup, and commits synchronous once it has caught up."""
        main = self.living_main()
        self.drop_copy()
        main.drop_slot(COPY_NAME)
        main.keep_slot(COPY_NAME)
        copy = self.copy = self._new_cluster()
        try:
            copy.clone(main, COPY_NAME)
            self._configure_copy()
            copy.start()
            _wait_for_standby(main, COPY_NAME, CATCH_UP_SECONDS)
        except ClusterError:
            self.drop_copy()
            raise
        with self._configuring:
            self._copy_is_synchronous = copy.is_running
            self._configure_main()

    def drop_copy(self) -> None:
        """Remove the copy, if there is one; commits wait for it no longer."""
        self.release_commits()
        copy, self.copy = self.copy, None
        if copy is not None:
            copy.remove()
            if self.main is not None and self.main.is_running:
                with contextlib.suppress(ClusterError):
                    self.main.drop_slot(COPY_NAME)

    def release_commits(self) -> None:
        """Let commits go on without the copy."""
        with self._configuring:
            if self._copy_is_synchronous:
                self._copy_is_synchronous = False
                self._configure_main()

    def fail_over(self) -> None:
        """Put the copy in the place of the main cluster, which is killed first if it still lives, and removed."""
        old, new = self.main, self.copy
        if new is None or old is None:
            raise ClusterError(f"{self._name} has no copy to fail over to")
        old.kill()
        with self._configuring:
            self._copy_is_synchronous = False
            self.main, self.copy = new, None
        if old.logical_slots():
            # On RDS the copy is one of storage and has the slots too; here slots are what streaming does not carry.
            new.stop()
            new.adopt_logical_slots(old)
            new.start()
        if self.upstream is None:
            new.promote()
        self._configure_main()
        if self._backup is not None:
            self._backup.rescue(old)
        old.remove()

    def revive(self) -> None:
        """Start the main cluster, whatever state it is in; that of a primary accepts writes then."""
        if self.main is None:
            raise ClusterError(f"{self._name} has no storage any more")
        self.main.start()
        if self.upstream is None:
            # It may have been the copy a moment ago, and died while it was promoted.
            self.main.promote()

    def restart(self) -> None:
        """Stop and start the main cluster: static parameters take effect, on the copy too."""
        main = self.living_main()
        main.stop()
        if self.copy is not None:
            self.copy.stop()
        main.start()
        if self.copy is not None:
            self.copy.start()

    def stop(self) -> None:
        """Stop both clusters in order; `revive` and `start_copy` are the way back."""
        for cluster in self.clusters:
            cluster.stop()

    def start_copy(self) -> None:
        """Start a stopped copy, if there is one."""
        if self.copy is not None:
            self.copy.start()

    def follow(self, upstream: Upstream) -> bool:
        """Let a read replica stream from another cluster of its source. False: it cannot, its history is another (or
        too old).
        """
        self.upstream = upstream
        upstream.cluster.keep_slot(upstream.slot)
        self._configure_main()
        main = self.living_main()
        deadline = time.monotonic() + FOLLOW_SECONDS
        # A standby that is ahead of the end of the old timeline streams too, what it knows already, again and again.
        while not upstream.cluster.has_standby(upstream.slot) or main.timeline() != upstream.cluster.timeline():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.03)
        return True

    def promote(self) -> None:
        """Make the main cluster of a read replica a primary of its own."""
        self.living_main().promote()
        upstream, self.upstream = self.upstream, None
        self._configure_main()
        _release(upstream)

    def set_parameters(self, parameters: Mapping[str, str]) -> None:
        """Take over parameters; static ones take effect with the next restart."""
        with self._configuring:
            self._parameters = honoured_settings(parameters)
            self._configure_main()
            self._configure_copy()

    def kill(self) -> None:
        """`kill -9` both clusters."""
        for cluster in self.clusters:
            cluster.kill()

    def halt(self) -> None:
        """Stop both clusters at once."""
        for cluster in self.clusters:
            cluster.halt()

    def remove(self) -> None:
        """Kill both clusters and delete their storage. Idempotent."""
        with self._configuring:
            clusters, self.main, self.copy = self.clusters, None, None
            self._copy_is_synchronous = False
        for cluster in clusters:
            cluster.remove()

    def release_upstream(self) -> None:
        """Drop the slot at the source, so that it keeps no WAL for a replica that is gone."""
        upstream, self.upstream = self.upstream, None
        _release(upstream)

    def living_main(self) -> Cluster:
        """The main cluster; ClusterError when it does not run."""
        if self.main is None or not self.main.is_running:
            raise ClusterError(f"{self._name} is not running")
        return self.main

    def _new_cluster(self) -> Cluster:
        return Cluster(self._host, self._name, self._exited)

    def _exited(self, cluster: Cluster) -> None:
        if cluster is self.main:
            self._on_main_exit(cluster)
        elif cluster is self.copy:
            # At once, in the thread that saw it die: every commit waits for the copy until then.
            self.release_commits()
            self._on_copy_exit(cluster)

    def _configure_main(self) -> None:
        with self._configuring:
            settings = dict(self._settings)
            if self.upstream is not None:
                settings |= self.upstream.cluster.connection_info(self.upstream.slot, self.upstream.slot)
            if self._copy_is_synchronous:
                settings |= {
                    "synchronous_commit": "on",
                    "synchronous_standby_names": COPY_NAME,
                    # A subscriber must not be ahead of what a failover would bring back.
                    "synchronized_standby_slots": COPY_NAME,
                }
            if self.main is not None:
                self.main.configure(settings)

    def _configure_copy(self) -> None:
        if self.main is not None and self.copy is not None:
            self.copy.configure(
                # Nobody reads from the copy: nothing there may hold back vacuum at the main cluster.
                self._settings
                | self.main.connection_info(COPY_NAME, COPY_NAME)
                | {"hot_standby_feedback": "off", "sync_replication_slots": "off"}
            )


def _release(upstream: Upstream | None) -> None:
    # A frozen cluster would answer neither this nor anything else.
    if upstream is not None and upstream.cluster.is_running and not upstream.cluster.is_frozen:
        with contextlib.suppress(ClusterError):
            upstream.cluster.drop_slot(upstream.slot)


def _wait_for_standby(cluster: Cluster, name: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not cluster.has_standby(name):
        if time.monotonic() > deadline:
            raise ClusterError(f"{name} does not stream from {cluster.directory.name}")
        time.sleep(0.03)
