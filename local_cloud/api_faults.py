"""Calls of AWS that go wrong on purpose: throttled, answered to nobody, or the last thing that their caller did.

They strike what a role asks for, be it a function's over HTTP or a state machine's task:

- `throttle`: AWS refuses the call, which is not executed;
- `lose_answer`: the call is executed, and its answer never arrives (a connection that breaks off; for a task the error
  that Step Functions gives when its SDK has no answer);
- `kill`: the function dies. Of a function's own call: it is executed, then the caller is killed. Of a task that invokes
  a function: that function, `after_ms` after it was invoked.
"""

from __future__ import annotations

import contextvars
import dataclasses
import fnmatch
import logging
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

from ministack import app
from ministack.core import iam_actions
from ministack.core.responses import get_account_id, get_region
from ministack.core.router import detect_service, extract_access_key_id
from ministack.services import sts

from local_cloud import functions_runtime

Kind = Literal["throttle", "lose_answer", "kill"]
KINDS: tuple[Kind, ...] = ("throttle", "lose_answer", "kill")
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
THROTTLED = "Rate exceeded"

_logger = logging.getLogger(__name__)
_dispatch = app._dispatch_service_request


@dataclass(frozen=True)
class ApiFault:
    """What goes wrong with which calls. `role`, `action` (`rds:PromoteReadReplica`) and `resource` are patterns with
    `*`; the first `skip` calls that match are spared, the `times` after them struck. A call that another fault has
    struck is not counted."""

    kind: Kind
    role: str = "*"
    action: str = "*"
    resource: str = "*"
    times: int = 1
    skip: int = 0
    after_ms: int = 0

    def concerns(self, role: str, action: str, resource: str) -> bool:
        """Whether a call is one of those."""
        pairs = ((role, self.role), (action, self.action), (resource, self.resource))
        return all(fnmatch.fnmatchcase(given, pattern) for given, pattern in pairs)


class ConnectionBroken(Exception):
    """Ends a request without an answer."""


class ApiFaults:
    """The faults that hold, and how often each has struck. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[tuple[ApiFault, list[int]]] = []

    def begin(self, fault: ApiFault) -> None:
        """Let it strike from now on, after those that were begun before it."""
        with self._lock:
            self._seen.append((fault, [0, 0]))

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._seen.clear()

    def __bool__(self) -> bool:
        return bool(self._seen)

    def shown(self) -> list[dict[str, Any]]:
        """Each fault with `matched`, the calls that it concerned, and `struck`, those that went wrong by it."""
        with self._lock:
            return [
                {**dataclasses.asdict(fault), "matched": matched, "struck": struck}
                for fault, (matched, struck) in self._seen
            ]

    def strike(self, role: str, action: str, resource: str, kinds: tuple[Kind, ...] = KINDS) -> ApiFault | None:
        """The fault that this call suffers, if any; it is counted."""
        with self._lock:
            for fault, counts in self._seen:
                if fault.kind not in kinds or not fault.concerns(role, action, resource):
                    continue
                counts[0] += 1
                if counts[0] > fault.skip and counts[1] < fault.times:
                    counts[1] += 1
                    return fault
        return None


faults = ApiFaults()
_answer_lost: contextvars.ContextVar[bool] = contextvars.ContextVar("answer_lost", default=False)


def install() -> None:
    """Let calls over HTTP suffer the faults; tasks of machines ask by themselves."""
    faults.clear()
    app._dispatch_service_request = _dispatch_with_faults


async def _dispatch_with_faults(
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    query_params: dict[str, Any],
    request_id: str,
) -> Any:
    call = _call(method, path, headers, body, query_params) if faults else None
    fault = faults.strike(*call[:3]) if call is not None else None
    if call is None or fault is None:
        return await _dispatch(method, path, headers, body, query_params, request_id)
    role, action, _, service, function = call
    _logger.info("%s of %s suffers %s", action, role, fault.kind)
    if fault.kind == "throttle":
        _, more, text = iam_actions.access_denied_response(
            service, action, "", request_id, error_code="ThrottlingException", message=THROTTLED, headers=headers
        )
        return 400, more, text
    answer = await _dispatch(method, path, headers, body, query_params, request_id)
    if fault.kind == "kill":
        functions_runtime.kill(function)
    _answer_lost.set(True)
    return answer


def _call(
    method: str, path: str, headers: dict[str, str], body: bytes, query_params: dict[str, Any]
) -> tuple[str, str, str, str, str] | None:
    """Role, action, resource, service and session (the function's name) of a request by a role; None of any other."""
    session = sts._sessions.get(extract_access_key_id(headers, query_params))
    identity = str((session or {}).get("Arn", "")).partition(":assumed-role/")[2]
    if not identity:
        return None
    role, _, function = identity.partition("/")
    params = app._routing_params(method, path, headers, body, query_params)
    service = detect_service(method, path, headers, params)
    action = iam_actions.extract_iam_action(service, method, path, headers, body, params)
    if action is None:
        return None
    resource = iam_actions.extract_resource_arn(
        service, method, path, headers, body, params, get_region(), get_account_id()
    )
    return role, str(action), str(resource), service, function


def breaking_off(send: Send) -> Send:
    """The same way to the client, which breaks off where an answer is lost: half of one is none."""

    async def send_or_break(message: MutableMapping[str, Any]) -> None:
        if not _answer_lost.get():
            await send(message)
        elif message["type"] == "http.response.start":
            await send({**message, "headers": [(b"content-length", b"1000000")]})
        else:
            raise ConnectionBroken

    return send_or_break


def kill_later(function: str, after_ms: int) -> None:
    """Kill a function's workers in so many milliseconds."""
    timer = threading.Timer(after_ms / 1000, functions_runtime.kill, (function,))
    timer.daemon = True
    timer.start()
