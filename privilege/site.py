"""A deployed environment in a local cloud, and what exercises do to it as its operator."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from deployment.account import Account
from drills.scenarios import post
from privilege.granted import Role, deployed_roles, short_name
from privilege.used import Usage, ask

T = TypeVar("T")

ROLE_RECORD_SECONDS = 60.0
# As long as a run of the archive that exercises have made short
BUSY_SECONDS = 60.0


class Failed(Exception):
    """An exercise did not come out as it must; the message is one sentence."""


@dataclass
class Site:
    """One environment. Clients are made once; safe to use from several threads."""

    account: Account
    outputs: Mapping[str, str]
    renewed: dict[str, float] = field(default_factory=dict)
    """When a function's execution environments were last ended, epoch milliseconds."""
    refused: dict[str, dict[str, int]] = field(default_factory=dict)
    """What had been refused to a function's role by then."""
    _clients: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def suffix(self) -> str:
        """The environment's suffix."""
        return self.outputs["EnvironmentSuffix"]

    @property
    def control(self) -> str:
        """The local cloud's control API."""
        return self.account.environment["LOCAL_CLOUD_URL"]

    def client(self, service: str) -> Any:
        """A client with the rights of the account's root."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self.account.client(service)
            return self._clients[service]

    def roles(self) -> tuple[Role, ...]:
        """The deployed roles."""
        return deployed_roles(self.account, self.suffix)

    def usage(self) -> Usage:
        """What has been recorded up to now."""
        return ask(self.control, self.suffix)

    def denials(self, short: str) -> dict[str, int]:
        """How often each action was refused to a role up to now."""
        found: dict[str, int] = {}
        for denial, count in self.usage().denied.items():
            if denial.short == short:
                found[denial.action] = found.get(denial.action, 0) + count
        return found

    def function(self, name: str) -> str:
        """A function's deployed name."""
        return f"citizens-{name}-{self.suffix}"

    def invoke(self, name: str, event: Mapping[str, object]) -> Any:
        """A function's answer, from a new execution environment; Failed with its error.

        One that runs already, of which there may be no second, is waited for: another lane's exercise may use it too.
        """
        functions = self.client("lambda")
        payload = json.dumps(event).encode()
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                answer = functions.invoke(FunctionName=self.function(name), Payload=payload)
                break
            except functions.exceptions.TooManyRequestsException:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(1)
        body = answer["Payload"].read().decode()
        if answer.get("FunctionError"):
            raise Failed(f"{name} failed: {body[:300]}")
        return json.loads(body)

    def renew(self, name: str, timeout: int | None = None) -> None:
        """End a function's execution environments, so that the next invocation begins cold; `timeout` in seconds."""
        functions = self.client("lambda")
        if timeout is None:
            timeout = functions.get_function_configuration(FunctionName=self.function(name))["Timeout"]
        self.renewed[name] = time.time() * 1000
        self.refused[name] = self.denials(f"citizens-{name}")
        functions.update_function_configuration(FunctionName=self.function(name), Timeout=timeout)

    def record(self, identity: str) -> dict[str, Any] | None:
        """A record of the recovery table in DynamoDB's form."""
        key = {"id": {"S": identity}}
        table = self.outputs["RecoveryTableName"]
        item: dict[str, Any] | None = self.client("dynamodb").get_item(TableName=table, Key=key).get("Item")
        return item

    def write(self, identity: str, **attributes: str | float) -> None:
        """Write a record of texts and numbers into the recovery table."""
        item = {name: {"S": v} if isinstance(v, str) else {"N": str(v)} for name, v in attributes.items()}
        self.client("dynamodb").put_item(
            TableName=self.outputs["RecoveryTableName"], Item={"id": {"S": identity}, **item}
        )

    def forget(self, identity: str) -> None:
        """Delete a record of the recovery table."""
        self.client("dynamodb").delete_item(TableName=self.outputs["RecoveryTableName"], Key={"id": {"S": identity}})

    def role_record(self) -> tuple[int, str, str]:
        """Epoch, primary and standby as the role record has them, once a witness has written it."""
        found = eventually(lambda: self.record("roles"), ROLE_RECORD_SECONDS, "the role record")
        return int(found["epoch"]["N"]), found["primary"]["S"], found["standby"]["S"]

    def has_logged(self, name: str) -> bool:
        """Whether the execution environment that was begun for the exercise has logged the end of an invocation."""
        logs, group = self.client("logs"), f"/aws/lambda/{self.function(name)}"
        # An answer has at most 50 streams, in the order of their names, and each environment makes one.
        for page in logs.get_paginator("describe_log_streams").paginate(logGroupName=group):
            for stream in page["logStreams"]:
                if int(stream["creationTime"]) >= int(self.renewed[name]):
                    events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"])["events"]
                    if any("platform.report" in event["message"] for event in events):
                        return True
        return False

    def cut(self, member: str, *, off: bool) -> None:
        """Cut a member off from everyone, or undo it."""
        post(f"{self.control}/rds/{member}/endpoint", {"fault": "cut" if off else "none", "from": "everyone"})

    def short(self, role: str) -> str:
        """A role's name without the suffix."""
        return short_name(role, self.suffix)


def eventually(look: Callable[[], T | None], within: float, what: str) -> T:
    """The first truthy answer within so many seconds; Failed otherwise."""
    deadline = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"{what} was not there within {within:.0f} s")
        time.sleep(0.1)


def now_iso() -> str:
    """The time as the machine's input has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
