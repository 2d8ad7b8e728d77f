"""RDS events: into `DescribeEvents`, onto the default event bus as the AWS source `aws.rds`, and to subscriptions.

Events are delivered one after the other, in the order in which they happened, by a thread of their own: a target that
is slow does not hold up the database that had something to report.
"""

from __future__ import annotations

import concurrent.futures
import json
import logging
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ministack.services import eventbridge, rds, sns

from local_cloud.server import LocalCloudOptions

if TYPE_CHECKING:
    from local_cloud.fleet import RdsEvent

logger = logging.getLogger(__name__)

SOURCE = "aws.rds"
# Per source type: detail type and source type of the event on the bus, and the resource part of the source's ARN.
ON_THE_BUS = {
    "db-instance": ("RDS DB Instance Event", "DB_INSTANCE", "db"),
    "db-snapshot": ("RDS DB Snapshot Event", "SNAPSHOT", "snapshot"),
}


class DatabaseEvents:
    """Takes the fleet's events and delivers each to everything that listens to RDS."""

    def __init__(self, options: LocalCloudOptions) -> None:
        self._options = options
        self._deliveries = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="rds-events")
        self._subscriptions: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.Lock()
        self._count = 0

    def record(self, event: RdsEvent) -> None:
        """Note the event at once (for `DescribeEvents`) and deliver it soon. Never raises and never blocks."""
        _, _, resource = ON_THE_BUS[event.source_type]
        arn = f"arn:aws:rds:{self._options.region}:{self._options.account}:{resource}:{event.source_identifier}"
        with self._lock:
            self._count += 1
            # The emulator pages and sorts by this key when two events have the same time.
            key = f"{self._count:012d}"
        rds._events[key] = {
            "SourceIdentifier": event.source_identifier,
            "SourceType": event.source_type,
            "SourceArn": arn,
            "Message": event.message,
            "Date": event.at.timestamp(),
            "EventCategories": list(event.categories),
        }
        try:
            self._deliveries.submit(self._deliver, event, arn)
        except RuntimeError:
            logger.debug("event %s of %s came after the end", event.event_id, event.source_identifier)

    def subscribe(self, name: str, subscription: Mapping[str, Any]) -> None:
        """Send events to a topic from now on. Keys as in `AWS::RDS::EventSubscription`."""
        self._subscriptions[name] = dict(subscription)

    def unsubscribe(self, name: str) -> None:
        """End a subscription; one that does not exist is no error."""
        self._subscriptions.pop(name, None)

    def subscriptions(self) -> dict[str, Mapping[str, Any]]:
        """Return the subscriptions by name."""
        return dict(self._subscriptions)

    def close(self) -> None:
        """Deliver nothing more."""
        self._deliveries.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, event: RdsEvent, arn: str) -> None:
        try:
            eventbridge._dispatch_event(self._bus_event(event, arn))
            for subscription in list(self._subscriptions.values()):
                if wants(subscription, event):
                    self._notify(subscription, event, arn)
        except Exception:
            logger.exception("delivery of %s of %s failed", event.event_id, event.source_identifier)

    def _bus_event(self, event: RdsEvent, arn: str) -> dict[str, Any]:
        detail_type, source_type, _ = ON_THE_BUS[event.source_type]
        return {
            "EventId": str(uuid.uuid4()),
            "Source": SOURCE,
            "DetailType": detail_type,
            "Detail": json.dumps(
                {
                    "EventCategories": list(event.categories),
                    "SourceType": source_type,
                    "SourceArn": arn,
                    "Date": _milliseconds(event.at),
                    "Message": event.message,
                    "SourceIdentifier": event.source_identifier,
                    "EventID": event.event_id,
                }
            ),
            "EventBusName": "default",
            "Time": event.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Resources": [arn],
            "Account": self._options.account,
            "Region": self._options.region,
        }

    def _notify(self, subscription: Mapping[str, Any], event: RdsEvent, arn: str) -> None:
        message = {
            "Event Source": event.source_type,
            "Event Time": event.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
            "Source ID": event.source_identifier,
            "Source ARN": arn,
            "Event ID": f"http://docs.amazonwebservices.com/AmazonRDS/latest/UserGuide/USER_Events.html#{event.event_id}",
            "Event Message": event.message,
        }
        status, _headers, body = sns._publish(
            {
                "TopicArn": [str(subscription["SnsTopicArn"])],
                "Subject": ["RDS Notification Message"],
                "Message": [json.dumps(message)],
            }
        )
        if status >= 400:
            logger.warning("%s was not published: %s", event.event_id, body)


def wants(subscription: Mapping[str, Any], event: RdsEvent) -> bool:
    """Tell whether a subscription's source type, source ids and categories let the event through."""
    if subscription.get("Enabled") in (False, "false"):
        return False
    if subscription.get("SourceType") not in (None, event.source_type):
        return False
    if subscription.get("SourceIds") and event.source_identifier not in subscription["SourceIds"]:
        return False
    categories = subscription.get("EventCategories")
    return not categories or bool(set(categories) & set(event.categories))


def _milliseconds(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
