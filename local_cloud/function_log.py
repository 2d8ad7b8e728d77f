"""A function's log: one stream per execution environment, in the layout AWS writes."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import cloudwatch_logs

from local_cloud import permissions
from local_cloud.permissions import RoleSession

_LOG_LEVELS = {
    "TRACE": "DEBUG",
    "DEBUG": "DEBUG",
    "INFO": "INFO",
    "WARN": "WARNING",
    "ERROR": "ERROR",
    "FATAL": "FATAL",
}


def log_group(config: Mapping[str, Any]) -> str:
    """Return the log group of a function: the one it configures, else `/aws/lambda/<name>`."""
    return str((config.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{config['FunctionName']}")


class FunctionLog:
    """The log stream of one worker, written with the permissions of the function's role.

    AWS never tells a function that its log could not be written; neither does this.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        date = time.strftime("%Y/%m/%d", time.gmtime())
        self.stream = f"{date}/[{config.get('Version', '$LATEST')}]{uuid.uuid4().hex}"
        self._group = log_group(config)
        self._session = RoleSession(str(config.get("Role", "")), str(config["FunctionName"])[:64])
        self._scope = tuple(str(config["FunctionArn"]).split(":")[3:5])
        logging_config = config.get("LoggingConfig") or {}
        self.layout = str(logging_config.get("LogFormat") or "Text").upper()
        self.level = _LOG_LEVELS.get(str(logging_config.get("ApplicationLogLevel")), "WARNING")
        self._memory = int(config.get("MemorySize", 128))

    def write(self, lines: Iterable[str]) -> None:
        """Append lines, now."""
        now = int(time.time() * 1000)
        region, account = self._scope
        with request_scope(account, region):
            if self._writable(region, account):
                events = [{"timestamp": now, "message": line} for line in lines]
                cloudwatch_logs._put_log_events(
                    {"logGroupName": self._group, "logStreamName": self.stream, "logEvents": events}
                )

    def start(self, request_id: str, version: str) -> None:
        """Write the platform's line at the start of an invocation."""
        record = {"requestId": request_id, "version": version}
        self._platform("platform.start", record, f"START RequestId: {request_id} Version: {version}")

    def report(self, request_id: str, milliseconds: float, initialisation: float | None, status: str) -> None:
        """Write the platform's lines at the end of an invocation (durations in milliseconds)."""
        metrics: dict[str, Any] = {"durationMs": round(milliseconds, 2), "memorySizeMB": self._memory}
        text = (
            f"REPORT RequestId: {request_id}\tDuration: {milliseconds:.2f} ms\t"
            f"Billed Duration: {int(milliseconds) + 1} ms\tMemory Size: {self._memory} MB"
        )
        if initialisation is not None:
            metrics["initDurationMs"] = round(initialisation, 2)
            text += f"\tInit Duration: {initialisation:.2f} ms"
        if self.layout != "JSON":
            self.write([f"END RequestId: {request_id}"])
        record = {"requestId": request_id, "status": status, "metrics": metrics}
        self._platform("platform.report", record, text if status == "success" else f"{text}\tStatus: {status}")

    def _platform(self, kind: str, record: dict[str, Any], text: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        self.write([json.dumps({"time": moment, "type": kind, "record": record}) if self.layout == "JSON" else text])

    def _writable(self, region: str, account: str) -> bool:
        group = f"arn:aws:logs:{region}:{account}:log-group:{self._group}"
        stream = f"{group}:log-stream:{self.stream}"
        if self._group not in cloudwatch_logs._log_groups:
            if self._denied("logs:CreateLogGroup", group):
                return False
            cloudwatch_logs._create_log_group({"logGroupName": self._group})
        if self.stream not in cloudwatch_logs._log_groups[self._group]["streams"]:
            if self._denied("logs:CreateLogStream", stream):
                return False
            cloudwatch_logs._create_log_stream({"logGroupName": self._group, "logStreamName": self.stream})
        return not self._denied("logs:PutLogEvents", stream)

    def _denied(self, action: str, resource: str) -> bool:
        return permissions.role_denial(self._session, action, resource) is not None
