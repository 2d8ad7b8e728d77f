"""Patroni on this machine: two nodes on the local cloud's PostgreSQL binaries, with etcd as their store.

A node is an agent and its PostgreSQL. Losing it kills both at once (SIGKILL) and removes the data; the agent that is
started again later makes its data anew from the leader, as Patroni does by itself. Clients connect without TLS, which
the binaries do not have.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from deployment.cdk import ROOT
from deployment.problem import Problem
from drills.client import CONNECT_TIMEOUT_SECONDS
from local_cloud.postgres_host import PostgresHost, remove, working_below

PROGRAMS = ROOT / "build" / "patroni"
"""Where `make bench-failover` puts Patroni's virtual environment and, unpacked from its Debian package, etcd."""
READY_SECONDS = 90.0
"""To be a leader with a streaming replica: several of Patroni's loops of 10 s."""
REQUEST_SECONDS = 2.0


@dataclass(frozen=True)
class Timing:
    """Patroni's settings that decide how long a failover takes, in seconds."""

    ttl: int
    loop_wait: int
    retry_timeout: int
    primary_start_timeout: int

    def __post_init__(self) -> None:
        """Patroni's own rule; it would silently put its defaults in place of values that break it."""
        if self.loop_wait + 2 * self.retry_timeout > self.ttl:
            raise ValueError(f"Patroni asks for loop_wait + 2 × retry_timeout ≤ ttl, which {self} does not keep.")

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


DEFAULT = Timing(ttl=30, loop_wait=10, retry_timeout=10, primary_start_timeout=300)
TIGHTEST = Timing(ttl=20, loop_wait=1, retry_timeout=3, primary_start_timeout=0)
"""The least that its documentation allows of each (docs/dynamic_configuration.rst of release 4.1: ttl 20, loop_wait 1,
retry_timeout 3)."""


@dataclass(frozen=True)
class Node:
    """One of the two: where it answers and what belongs to it."""

    name: str
    folder: Path
    port: int
    api: int

    @property
    def data(self) -> Path:
        """The data folder of its PostgreSQL."""
        return self.folder / "data"


def configuration(node: Node, timing: Timing, etcd: int, binaries: Path, sockets: Path) -> dict[str, Any]:
    """The agent's configuration (YAML, of which JSON is a part). What is not said stays Patroni's default: replication
    is asynchronous, `maximum_lag_on_failover` 1 MiB."""
    return {
        "scope": "citizens",
        "name": node.name,
        "restapi": {"listen": f"127.0.0.1:{node.api}", "connect_address": f"127.0.0.1:{node.api}"},
        "etcd3": {"hosts": f"127.0.0.1:{etcd}"},
        "bootstrap": {
            "dcs": {**asdict(timing), "postgresql": {"parameters": {"wal_level": "replica", "hot_standby": True}}},
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
        },
        "postgresql": {
            "listen": f"127.0.0.1:{node.port}",
            "connect_address": f"127.0.0.1:{node.port}",
            "data_dir": str(node.data),
            "bin_dir": str(binaries),
            "pgpass": str(node.folder / "pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", "password": "postgres"},
                "replication": {"username": "replicator", "password": "replicator"},
            },
            "parameters": {"unix_socket_directories": str(sockets)},
            "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
        },
    }


def leader_of(cluster: Mapping[str, Any]) -> str | None:
    """The name of the running leader in an answer of Patroni's `/cluster`."""
    names = (m["name"] for m in cluster.get("members", ()) if (m["role"], m["state"]) == ("leader", "running"))
    return next(names, None)


def is_protected(cluster: Mapping[str, Any]) -> bool:
    """Whether an answer of `/cluster` shows a running leader and a replica that streams and lacks nothing."""
    replicas = [m for m in cluster.get("members", ()) if m["role"] != "leader"]
    return leader_of(cluster) is not None and any(m["state"] == "streaming" and m.get("lag") == 0 for m in replicas)


class PatroniPair:
    """A running pair; `close` ends every process of it and removes every folder."""

    def __init__(self, state: Path, timing: Timing) -> None:
        """Start etcd and both nodes. Raises Problem when Patroni or etcd are not there or do not come up."""
        self._agent, self._etcd = PROGRAMS / "venv" / "bin" / "patroni", PROGRAMS / "etcd" / "usr" / "bin" / "etcd"
        for program in (self._agent, self._etcd):
            if not program.exists():
                raise Problem(f"{program.relative_to(ROOT)} is not there: run make bench-failover, which installs it.")
        self.timing = timing
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._host = PostgresHost(state)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        client, peer, *ports = free_ports(6)
        self._etcd_port = client
        folder = self._host.storage / "etcd"
        self._host.make_directory(folder)
        here, between = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self._running["etcd"] = self._host.start(
            [
                *(str(self._etcd), "--data-dir", str(folder / "data"), "--initial-cluster", f"default={between}"),
                *("--listen-client-urls", here, "--advertise-client-urls", here),
                *("--listen-peer-urls", between, "--initial-advertise-peer-urls", between),
            ],
            folder / "log",
        )
        self.nodes = tuple(
            Node(f"node{n}", self._host.storage / f"node{n}", ports[2 * n], ports[2 * n + 1]) for n in range(2)
        )
        for node in self.nodes:
            self._host.make_directory(node.folder)
            text = configuration(node, self.timing, client, self._host.binaries, self._host.sockets)
            self._host.write(node.folder / "patroni.yml", json.dumps(text, indent=2))
        self.start(self.nodes[0])
        self._until(lambda cluster: leader_of(cluster) == self.nodes[0].name, "a leader")
        self.start(self.nodes[1])
        self.await_protection()

    def start(self, node: Node) -> None:
        """Start a node's agent; it makes or clones the data if there are none."""
        self._running[node.name] = self._host.start(
            [str(self._agent), str(node.folder / "patroni.yml")], node.folder / "log"
        )

    def leader(self) -> Node:
        """The node that leads now. Raises Problem when none does."""
        name = leader_of(self._cluster())
        for node in self.nodes:
            if node.name == name:
                return node
        raise Problem("Patroni has no leader.")

    def lose(self, node: Node) -> None:
        """Kill the agent, then at once every process of its PostgreSQL, and remove the data."""
        agent = self._running.pop(node.name)
        for pid in (agent.pid, *(each.pid for each in working_below([node.data]))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while left := list(working_below([node.data])):
            for each in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGKILL)
        agent.wait()
        remove(node.data)

    def await_protection(self) -> None:
        """Wait until there is a leader and a replica that streams. Raises Problem when there is not in time."""
        self._until(is_protected, "a leader and a streaming replica")

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to whichever node takes writes, as an application of ours opens one, but without TLS."""
        return psycopg.connect(
            host=",".join("127.0.0.1" for _ in self.nodes),
            port=",".join(str(node.port) for node in self.nodes),
            dbname="postgres",
            user="postgres",
            target_session_attrs="read-write",
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            keepalives_idle=5,
            tcp_user_timeout=5000,
            application_name="citizens-drill",
            autocommit=True,
        )

    def close(self) -> None:
        """End all of it. Idempotent."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self._host.close()

    def _cluster(self) -> dict[str, Any]:
        for node in self.nodes:
            try:
                url = f"http://127.0.0.1:{node.api}/cluster"
                with urllib.request.urlopen(url, timeout=REQUEST_SECONDS) as answer:
                    found: dict[str, Any] = json.load(answer)
                    return found
            except (urllib.error.URLError, OSError, ValueError):
                continue
        return {}

    def _until(self, holds: Callable[[Mapping[str, Any]], bool], what: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not holds(found := self._cluster()):
            ended = [name for name, process in self._running.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                why = f"{' and '.join(ended)} ended" if ended else f"waited {READY_SECONDS:.0f} s"
                said = "".join(_last_words(node.folder / "log") for node in self.nodes)
                raise Problem(f"Patroni did not come to {what} ({why}): {found or 'no answer'}{said}")
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _last_words(log: Path) -> str:
    if not log.exists():
        return ""
    return "\n" + "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
