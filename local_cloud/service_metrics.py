"""What RDS and SQS publish in CloudWatch, measured here where it can be: every minute of the clock that can be moved.

Connections, storage, WAL, slots and replication come from the servers; the processor's share from their processes,
memory from this machine. An instance has the storage that its record says, less what its cluster takes. What no
instance here has (CPU credits), or what would take this machine away from everybody else (a busy processor, no memory,
a full disk), the instance's host can be told to have: then that is published in place of what was measured.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
from ministack.core.responses import request_scope
from ministack.services import cloudwatch, rds, sqs

from local_cloud import schedules
from local_cloud.fleet import Fleet, FleetError, Vitals

if TYPE_CHECKING:
    from local_cloud.server import LocalCloudOptions

GIB = 1024**3
PERIOD_SECONDS = 60
LOOK_SECONDS = 0.25
# A server that is frozen answers when it is thawed: nobody waits for that.
PATIENCE_SECONDS = 2.0
# What can be told, by the unit that it is published in.
HOST_METRICS: Mapping[str, str] = {
    "CPUUtilization": "Percent",
    "CPUCreditBalance": "Count",
    "FreeableMemory": "Bytes",
    "FreeStorageSpace": "Bytes",
}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    """Processor seconds that an instance's processes had used up at a moment (s, monotonic)."""

    at: float
    seconds: float


class ServiceMetrics:
    """Publishes until it is closed."""

    def __init__(self, fleet: Fleet, options: LocalCloudOptions) -> None:
        self._fleet = fleet
        self._options = options
        self._closed = threading.Event()
        self._publishing = threading.Lock()
        self._measuring: dict[str, threading.Thread] = {}
        self._told: dict[str, dict[str, float]] = {}
        self._work: dict[str, _Work] = {}
        self._minute = -1

    def install(self) -> None:
        """Begin to publish."""
        threading.Thread(target=self._watch, name="service-metrics", daemon=True).start()

    def close(self) -> None:
        """Publish no longer."""
        self._closed.set()

    def tell(self, identifier: str, values: Mapping[str, float | None]) -> dict[str, float]:
        """Have an instance's host show these values from now on, and what it really has for None. Returns what it was
        told by now. Raises FleetError when there is no such instance."""
        self._fleet.describe(identifier)
        told = self._told.setdefault(identifier, {})
        for name, value in values.items():
            told.pop(name, None)
            if value is not None:
                told[name] = value
        return dict(told)

    def publish(self) -> None:
        """Publish the values of this moment; returns when that is done."""
        with self._publishing, request_scope(self._options.account, self._options.region):
            self._minute = math.floor(schedules.now() / PERIOD_SECONDS)
            for name, queue in _queues():
                sqs._refresh_counts(queue)
                visible = float(queue["attributes"]["ApproximateNumberOfMessages"])
                cloudwatch.record_metric(
                    "AWS/SQS", "ApproximateNumberOfMessagesVisible", visible, "Count", {"QueueName": name}
                )
            measuring = [each for name in self._fleet.identifiers() if (each := self._measure_apart(name)) is not None]
        deadline = time.monotonic() + PATIENCE_SECONDS
        for thread in measuring:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            if math.floor(schedules.now() / PERIOD_SECONDS) == self._minute:
                continue
            try:
                self.publish()
            except Exception:
                _logger.exception("the metrics of RDS and SQS were not published")

    def _measure_apart(self, identifier: str) -> threading.Thread | None:
        """None while the last one still waits for a frozen server, which publishes nothing meanwhile, as on RDS."""
        before = self._measuring.get(identifier)
        if before is not None and before.is_alive():
            return None
        thread = threading.Thread(target=self._measure, args=(identifier,), name=f"metrics-{identifier}", daemon=True)
        self._measuring[identifier] = thread
        thread.start()
        return thread

    def _measure(self, identifier: str) -> None:
        try:
            vitals = self._fleet.vitals(identifier)
        except FleetError:
            return  # it is gone, or being made, or does not run: RDS publishes nothing then either
        with request_scope(self._options.account, self._options.region):
            for name, (value, unit) in self._values(identifier, vitals).items():
                cloudwatch.record_metric("AWS/RDS", name, value, unit, {"DBInstanceIdentifier": identifier})

    def _values(self, identifier: str, vitals: Vitals) -> dict[str, tuple[float, str]]:
        allocated = int((rds._instances.get(identifier) or {}).get("AllocatedStorage") or 0) * GIB
        values: dict[str, tuple[float, str]] = {
            "DatabaseConnections": (vitals.connections, "Count"),
            "FreeStorageSpace": (max(0, allocated - vitals.storage_bytes), "Bytes"),
            "TransactionLogsDiskUsage": (vitals.wal_bytes, "Bytes"),
            "OldestReplicationSlotLag": (vitals.slot_lag_bytes, "Bytes"),
            "FreeableMemory": (psutil.virtual_memory().available, "Bytes"),
        }
        if vitals.replica_lag_seconds is not None:
            values["ReplicaLag"] = (vitals.replica_lag_seconds, "Seconds")
        before, now = self._work.get(identifier), _Work(time.monotonic(), vitals.processor_seconds)
        self._work[identifier] = now
        if before is not None and now.at > before.at:
            share = (now.seconds - before.seconds) / (now.at - before.at) / (os.cpu_count() or 1)
            # Processes that have ended in between take their seconds along
            values["CPUUtilization"] = (min(100.0, max(0.0, share * 100)), "Percent")
        told = self._told.get(identifier, {})
        return values | {name: (value, HOST_METRICS[name]) for name, value in told.items()}


def _queues() -> Iterator[tuple[str, dict[str, Any]]]:
    for queue in list(sqs._queues.values()):
        yield str(queue["name"]), queue
