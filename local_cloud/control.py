"""The control API (`/_local/…`): what breaks the local cloud on purpose, and what shows its inside.

It answers next to the emulator, on its endpoints, as JSON. Errors: 404 for an unknown path or instance, 400 for a value
that makes no sense, each as `{"error": "…"}`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from local_cloud import api_faults, functions_runtime, permission_record, schedules
from local_cloud.api_faults import ApiFault
from local_cloud.fleet import Delays, Fault, FleetError
from local_cloud.service_metrics import HOST_METRICS

if TYPE_CHECKING:
    from local_cloud.server import LocalCloud

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PREFIX = "/_local/"
FAULTS = ("none", "cut", "hang", "slow")
LONGEST_CERTIFICATE_DAYS = 3650
ORIGINS = ("everyone", "functions", "applications")


class ControlError(Exception):
    """A request that cannot be met: an HTTP status and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ControlApi:
    """An ASGI application: answers the control API and hands everything else to the emulator."""

    def __init__(self, emulator: Application, cloud: LocalCloud, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called once, when the emulator has started and requests are being served."""
        self._emulator = emulator
        self._cloud = cloud
        self._on_ready = on_ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._emulator(scope, receive, self._watching_the_start(send))
        elif scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._answer(scope, receive, send)
        else:
            await self._emulator(scope, receive, api_faults.breaking_off(send))

    def _watching_the_start(self, send: Send) -> Send:
        async def watch(message: MutableMapping[str, Any]) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self._on_ready()

        return watch

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            answer = await asyncio.to_thread(self._act, scope["method"], scope["path"].removeprefix(PREFIX), body)
            status = 200
        except ControlError as error:
            status, answer = error.status, {"error": str(error)}
        except FleetError as error:
            status = 404 if error.code == "DBInstanceNotFound" else 400
            answer = {"error": error.message}
        text = json.dumps(answer, default=str).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    def _act(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        fleet = self._cloud.fleet
        match [method, *path.strip("/").split("/")]:
            case ["GET", "status"]:
                return self._cloud.status()
            case ["GET", "delays"]:
                return dataclasses.asdict(fleet.delays)
            case ["PUT", "delays"]:
                fleet.delays = merged_delays(fleet.delays, _object(body))
                return dataclasses.asdict(fleet.delays)
            case ["POST", "rds", identifier, "lose"]:
                fleet.lose(identifier)
                return {"lost": identifier}
            case ["POST", "rds", identifier, "kill"]:
                fleet.kill(identifier)
                return {"killed": identifier}
            case ["POST", "rds", identifier, "crash" | "freeze" | "thaw" | "fill" | "back_up" as failure]:
                getattr(fleet, failure)(identifier)
                return {failure: identifier}
            case ["POST", "rds", identifier, "replay"]:
                paused = _object(body).get("paused")
                if not isinstance(paused, bool):
                    raise ControlError(400, "paused is true or false")
                fleet.pause_replay(identifier, paused)
                return {"paused": paused}
            case ["POST", "zones", zone, "lose"]:
                fleet.lose_zone(zone)
                functions_runtime.lose_zones(fleet.lost_zones)
                return {"lost": sorted(fleet.lost_zones)}
            case ["POST", "zones", zone, "restore"]:
                fleet.restore_zone(zone)
                functions_runtime.lose_zones(fleet.lost_zones)
                return {"lost": sorted(fleet.lost_zones)}
            case ["POST", "rds", identifier, "endpoint"]:
                fault = fault_from(_object(body))
                fleet.set_fault(identifier, fault)
                return dataclasses.asdict(fault)
            case ["POST", "functions", name, "kill"]:
                return {"killed": functions_runtime.kill(name)}
            case ["PUT", "rds", identifier, "host"]:
                return dict(self._cloud.metrics.tell(identifier, host_values_from(_object(body))))
            case ["POST", "rds", identifier, "certificate"]:
                lifetime = lifetime_from(_object(body))
                fleet.renew_certificate(identifier, lifetime)
                return {"days": lifetime.total_seconds() / 86_400}
            case ["GET", "api-faults"]:
                return {"faults": api_faults.faults.shown()}
            case ["POST", "api-faults"]:
                api_fault = api_fault_from(_object(body))
                api_faults.faults.begin(api_fault)
                return dataclasses.asdict(api_fault)
            case ["DELETE", "api-faults"]:
                api_faults.faults.clear()
                return {"faults": []}
            case ["PUT", "clock"]:
                now = schedules.advance(seconds_from(_object(body)))
                # Whoever moves the clock finds the services' metrics of the new time
                self._cloud.metrics.publish()
                return {"now": now}
            case ["GET", "permissions"]:
                return permission_record.record.shown()
            case ["POST", "schedules", "fire"]:
                return {"fired": schedules.fire_all()}
            case _:
                raise ControlError(404, f"{method} {PREFIX}{path} is not part of the control API")


def merged_delays(current: Delays, changes: dict[str, Any]) -> Delays:
    """Return the delays with the given ones replaced. Raises ControlError for an unknown name or a negative time."""
    known = {field.name for field in dataclasses.fields(Delays)}
    for name, value in changes.items():
        if name not in known:
            raise ControlError(400, f"{name} is not one of {', '.join(sorted(known))}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ControlError(400, f"{name} is a number of seconds, 0 or more")
    return dataclasses.replace(current, **{name: float(value) for name, value in changes.items()})


def seconds_from(request: dict[str, Any]) -> float:
    """Return how far the clock of schedules and rotations is to be moved: `advance_seconds`, 0 or more."""
    seconds = request.get("advance_seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise ControlError(400, "advance_seconds is a number of seconds, 0 or more")
    return float(seconds)


def host_values_from(request: dict[str, Any]) -> dict[str, float | None]:
    """Return what an instance's host is to show, by the metric's name; null ends it."""
    values: dict[str, float | None] = {}
    for name, value in request.items():
        if name not in HOST_METRICS:
            raise ControlError(400, f"{name} is not one of {', '.join(HOST_METRICS)}")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise ControlError(400, f"{name} is a number, 0 or more, or null")
        values[name] = None if value is None else float(value)
    return values


def lifetime_from(request: dict[str, Any]) -> timedelta:
    """Return how long a certificate is to be valid: `days`, more than 0."""
    days = request.get("days")
    if isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days <= LONGEST_CERTIFICATE_DAYS:
        raise ControlError(400, f"days is a number, more than 0 and at most {LONGEST_CERTIFICATE_DAYS}")
    return timedelta(days=days)


def fault_from(request: dict[str, Any]) -> Fault:
    """Return the fault a request describes: `fault`, `delay_ms` (0 without) and `from` (everyone without)."""
    kind, delay, origin = request.get("fault"), request.get("delay_ms", 0), request.get("from", "everyone")
    if kind not in FAULTS:
        raise ControlError(400, f"fault is one of {', '.join(FAULTS)}")
    if origin not in ORIGINS:
        raise ControlError(400, f"from is one of {', '.join(ORIGINS)}")
    if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
        raise ControlError(400, "delay_ms is a whole number of milliseconds, 0 or more")
    return Fault(kind=kind, delay_ms=delay, scope=origin)


def api_fault_from(request: dict[str, Any]) -> ApiFault:
    """Return the fault of calls a request describes: `kind`, patterns `role`, `action` and `resource` (any without),
    `times` (1 without), `skip` and `after_ms` (0 without)."""
    if request.get("kind") not in api_faults.KINDS:
        raise ControlError(400, f"kind is one of {', '.join(api_faults.KINDS)}")
    for name, value in request.items():
        if name not in {field.name for field in dataclasses.fields(ApiFault)}:
            raise ControlError(400, f"{name} is no part of a fault of calls")
        if name in ("role", "action", "resource") and not isinstance(value, str):
            raise ControlError(400, f"{name} is a pattern of text")
        if name in ("times", "skip", "after_ms") and (isinstance(value, bool) or not isinstance(value, int)):
            raise ControlError(400, f"{name} is a whole number, 0 or more")
        if isinstance(value, int) and value < 0:
            raise ControlError(400, f"{name} is a whole number, 0 or more")
    return ApiFault(**request)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except ValueError as error:
        raise ControlError(400, f"the request is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ControlError(400, "the request is not a JSON object")
    return value
