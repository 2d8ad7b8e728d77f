"""The archive of the transaction log: works through each minute, one run at a time."""

import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from functions import clients, journal
from functions.environment import Environment, environment, log_folder
from recovery import roles
from recovery.transaction_log import segment
from recovery.transaction_log.archive import STATEMENT_SECONDS, Archive, Progress, keep

WORK_SECONDS = 55.0
"""Of the schedule's minute: a run is over before the next one begins."""
METRICS_SECONDS = 20.0
SIGN_IN_SECONDS = 10.0


class Gauge:
    """Sends the log's lag and its gaps to CloudWatch now and then; what fails there never stops the archive."""

    def __init__(self, settings: Environment) -> None:
        self._settings = settings
        self._sent_at: float | None = None

    def show(self, progress: Progress) -> None:
        """Send the lag unless it was sent a moment ago."""
        now = time.monotonic()
        if self._sent_at is not None and now - self._sent_at < METRICS_SECONDS:
            return
        self._sent_at = now
        dimensions = [{"Name": "Suffix", "Value": self._settings.suffix}]
        data: list[Any] = [
            {"MetricName": "LogLagSeconds", "Value": progress.lag_seconds, "Unit": "Seconds", "Dimensions": dimensions},
            {"MetricName": "LogLagBytes", "Value": progress.lag_bytes, "Unit": "Bytes", "Dimensions": dimensions},
            {"MetricName": "LogGaps", "Value": progress.gaps, "Unit": "Count", "Dimensions": dimensions},
        ]
        try:
            clients.cloudwatch().put_metric_data(Namespace=self._settings.namespace, MetricData=data)
        except (BotoCoreError, ClientError) as error:
            journal.note("trouble", {"with": "metrics", "error": str(error)})


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """{} → {"segments", "messages", "gaps", "last_lsn"}; `seconds` in the event makes the run shorter."""
    settings = environment()
    table = clients.table(settings)
    current = roles.known(table)
    remaining = context.get_remaining_time_in_millis() / 1000
    seconds = max(0.0, min(float(event.get("seconds", WORK_SECONDS)), remaining - STATEMENT_SECONDS))
    folder = log_folder() / f"epoch-{current.epoch}"

    def still_ours() -> bool:
        return roles.known(table).epoch == current.epoch

    endpoint = settings.member(current.primary).endpoint
    with (
        segment.alone(folder),
        clients.access(settings).open(endpoint, SIGN_IN_SECONDS, "citizens-archive") as session,
    ):
        archive = Archive(session, folder, current.epoch, patience=remaining - STATEMENT_SECONDS)
        progress = keep(archive, seconds, still_ours, Gauge(settings).show)
    result = {
        "segments": progress.segments,
        "messages": progress.messages,
        "gaps": progress.gaps,
        "last_lsn": progress.last_lsn,
    }
    journal.note("archived", {"epoch": current.epoch, **result})
    return result
