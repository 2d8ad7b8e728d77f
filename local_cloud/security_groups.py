"""Security groups: who connects to an instance, and whether the rules let it in.

A function is recognised by the process that owns the client's socket; everything else on this machine plays the
application server at the client address.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped,unused-ignore]
from ministack.core.responses import request_scope
from ministack.services import ec2

from local_cloud import functions_runtime
from local_cloud.endpoint import Caller
from local_cloud.function_worker import FunctionIdentity

if TYPE_CHECKING:
    from local_cloud.server import LocalCloudOptions

_PROTOCOLS = ("-1", "tcp", "6")
_CONNECTIONS = Path("/proc/net/tcp")
GONE = ""


class SecurityGroupAdmission:
    """Admits connections to the instances' endpoints as their security groups do."""

    def __init__(self, options: LocalCloudOptions) -> None:
        self._account = options.account
        self._region = options.region
        self._client_address = options.client_address

    def __call__(
        self,
        identifier: str,  # noqa: ARG002 - part of the protocol
        security_groups: tuple[str, ...],
        port: int,
        peer: tuple[str, int],
        local: tuple[str, int],
    ) -> Caller:
        """Say who the caller at `peer` is and whether it may reach `port` of the instance `identifier`."""
        function = owner_of_connection(peer, local)
        with request_scope(self._account, self._region):
            if function is None:
                address = ip_network(self._client_address)
                allowed = any(_admits(rule, port, (), [address]) for rule in _rules(security_groups, "IpPermissions"))
                return Caller(allowed, "applications", self._client_address)
            return Caller(_reaches(function, security_groups, port), "functions", function.name)


def owner_of_connection(peer: tuple[str, int], local: tuple[str, int]) -> FunctionIdentity | None:
    """Return the function whose process, or something it started, holds the client's end of a connection to `local`."""
    workers = functions_runtime.function_processes()
    socket = _socket_of(peer, local)
    if socket == GONE:
        return None
    for process, function in workers.items():
        if _holds(process, socket, peer, local):
            return function
    # What a worker starts stays in the session that the worker leads.
    for process in psutil.pids() if workers else ():
        try:
            session = os.getsid(process)
        except (ProcessLookupError, PermissionError):
            continue
        if session != process and session in workers and _holds(process, socket, peer, local):
            return workers[session]
    return None


def _socket_of(peer: tuple[str, int], local: tuple[str, int]) -> str | None:
    """Return what a process's descriptor of the client's end links to, GONE when it is closed; None without /proc.

    The kernel's table is read once for each connection: asked process by process, a busy machine falls behind the
    connections that come in, and never catches up with those that were given up meanwhile.
    """
    try:
        table = _CONNECTIONS.read_text(encoding="ascii")
    except OSError:
        return None
    ends = f" {_as_kernel_writes_it(peer)} {_as_kernel_writes_it(local)} "
    for line in table.splitlines():
        if ends in line:
            inode = line.split()[9]
            return f"socket:[{inode}]" if inode != "0" else GONE
    return GONE


def _as_kernel_writes_it(end: tuple[str, int]) -> str:
    return f"{int.from_bytes(ip_address(end[0]).packed, sys.byteorder):08X}:{end[1]:04X}"


def _holds(process: int, socket: str | None, peer: tuple[str, int], local: tuple[str, int]) -> bool:
    if socket is not None:
        try:
            return any(str(entry.readlink()) == socket for entry in Path(f"/proc/{process}/fd").iterdir())
        except OSError:
            return False
    try:
        connections = psutil.Process(process).net_connections(kind="tcp")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return any(
        connection.laddr and connection.raddr and connection.laddr[:2] == peer and connection.raddr[:2] == local
        for connection in connections
    )


def _reaches(function: FunctionIdentity, security_groups: tuple[str, ...], port: int) -> bool:
    """Whether the function's groups let it out to the instance and the instance's groups let it in.

    A function without a VPC configuration is outside of the VPC and reaches nothing in it.
    """
    if not function.subnet_ids or not function.security_group_ids:
        return False
    source = _networks(ec2._subnets, function.subnet_ids)
    vpcs = {str((ec2._security_groups.get(group) or {}).get("VpcId", "")) for group in security_groups}
    target = _networks(ec2._vpcs, vpcs)
    leaves = any(
        _admits(rule, port, security_groups, target)
        for rule in _rules(function.security_group_ids, "IpPermissionsEgress")
    )
    return leaves and any(
        _admits(rule, port, function.security_group_ids, source) for rule in _rules(security_groups, "IpPermissions")
    )


def _networks(store: Any, identifiers: Iterable[str]) -> list[IPv4Network]:
    records = (store.get(identifier) for identifier in identifiers)
    return [IPv4Network(record["CidrBlock"]) for record in records if record]


def _rules(groups: Iterable[str], direction: str) -> list[Mapping[str, Any]]:
    return [rule for group in groups for rule in (ec2._security_groups.get(group) or {}).get(direction, [])]


def _admits(rule: Mapping[str, Any], port: int, groups: Iterable[str], networks: Iterable[Any]) -> bool:
    """Whether a rule covers the port and the other side, known by its groups or by the networks it may be in."""
    protocol = str(rule.get("IpProtocol", "-1")).lower()
    if protocol not in _PROTOCOLS:
        return False
    if protocol != "-1" and not int(rule.get("FromPort", 0)) <= port <= int(rule.get("ToPort", 65535)):
        return False
    if any(pair.get("GroupId") in groups for pair in rule.get("UserIdGroupPairs") or []):
        return True
    ranges = [ip_network(entry["CidrIp"], strict=False) for entry in rule.get("IpRanges") or []]
    return any(network.subnet_of(allowed) for network in networks for allowed in ranges)
