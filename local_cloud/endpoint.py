"""The endpoints of DB instances: TLS in front of the clusters, and the place where networks break.

Every instance has a loopback address of its own (on Linux; elsewhere a port of its own on 127.0.0.1). The endpoint
speaks the first bytes of PostgreSQL's protocol (the TLS request, the start-up packet), then forwards bytes to the
cluster's Unix socket.

What a client sees: no instance → connection refused; no cluster behind the endpoint → connection reset; a security
group that does not let it in → silence, as dropped packets are (the TCP connection itself succeeds: the kernel
completes it on loopback). A connection that is established outlives a change of security groups, which track
connections.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from local_cloud.certificates import CertificateAuthority, ServerCertificate
from local_cloud.cluster import INTERNAL_ROLES, let_work

logger = logging.getLogger(__name__)

CHUNK_BYTES = 65536
# As PostgreSQL itself limits it (MAX_STARTUP_PACKET_LENGTH).
STARTUP_PACKET_LIMIT = 10_000
AUTHENTICATION_TIMEOUT_SECONDS = 60.0
SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102
AUTHENTICATION_OK = struct.pack("!cII", b"R", 8, 0)
NEGOTIATION = b"v"
ASK_FOR_PASSWORD = struct.pack("!cII", b"R", 8, 3)
TOKEN_LIMIT = 65536

Side = Literal["functions", "applications"]
T = TypeVar("T")
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Caller:
    """Who connects: whether the security groups let it in, and which side of the network it is on."""

    allowed: bool
    kind: Side
    name: str


@dataclass(frozen=True)
class Fault:
    """A network fault between callers and an instance.

    cut: connections are reset; hang: they stay open and silent, and go on when the fault ends; slow: every chunk
    takes `delay_ms` longer.
    """

    kind: Literal["none", "cut", "hang", "slow"] = "none"
    delay_ms: int = 0
    scope: Literal["everyone", "functions", "applications"] = "everyone"

    def strikes(self, side: Side) -> bool:
        """Whether a caller of that side suffers it."""
        return self.kind != "none" and self.scope in ("everyone", side)


class Admission(Protocol):
    """Decides on a connection, as security groups do. Called in a thread of its own; must be fast."""

    def __call__(
        self,
        identifier: str,
        security_groups: tuple[str, ...],
        port: int,
        peer: tuple[str, int],
        local: tuple[str, int],
    ) -> Caller:
        """Say who the caller at `peer` is and whether it may reach `port` of the instance."""


class TokenCheck(Protocol):
    """Decides whether a token signs a user in to an instance. Called in a thread of its own."""

    def __call__(self, identifier: str, address: tuple[str, int], user: str, token: str) -> bool:
        """Whether it is signed by somebody who may connect as `user` to the instance that answers at `address`."""


def no_tokens(identifier: str, address: tuple[str, int], user: str, token: str) -> bool:  # noqa: ARG001 - protocol
    """IAM database authentication is off: no token signs anybody in."""
    return False


@dataclass(frozen=True)
class Rules:
    """What an endpoint needs to know of its instance for a new connection."""

    security_groups: tuple[str, ...]
    port: int
    force_ssl: bool


@dataclass(eq=False)
class _Connection:
    side: Side
    writer: asyncio.StreamWriter


@dataclass(eq=False)
class _Endpoint:
    identifier: str
    address: str
    port: int
    certificate: ServerCertificate
    rules: Rules
    server: asyncio.Server | None = None
    target: Path | None = None
    servers: int = 0  # so many have been behind it: a connection belongs to the one that it was made to
    fault: Fault = Fault()
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[_Connection] = field(default_factory=set)
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)


class EndpointServer:
    """All endpoints of a fleet, on one event loop in one thread. Its methods may be called from any thread."""

    def __init__(self, authority: CertificateAuthority, admission: Admission, tokens: TokenCheck = no_tokens) -> None:
        self._authority = authority
        self._admission = admission
        self._tokens = tokens
        self._addresses: dict[str, tuple[str, int, ServerCertificate]] = {}
        self._endpoints: dict[str, _Endpoint] = {}
        # Admission looks at processes of the machine: not something to do on the loop.
        self._deciders = ThreadPoolExecutor(max_workers=4, thread_name_prefix="admission")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rds-endpoints", daemon=True)
        self._thread.start()

    def open(self, identifier: str, rules: Rules) -> tuple[str, int]:
        """Listen for an instance and return its address and port; `rules.port` when it can be bound, else another.

        An instance gets the same address again when it is opened another time.
        """
        return self._run(self._open(identifier, rules))

    def close_endpoint(self, identifier: str) -> None:
        """Stop listening and reset the connections. Idempotent."""
        self._run(self._close_endpoint(identifier))

    def set_target(self, identifier: str, target: Path | None) -> None:
        """Forward new connections to the socket `target`; None: there is no cluster, they are reset. One that has not
        signed in by then was the last server's: a network that held it back does not bring it to the next.
        """

        def aim(endpoint: _Endpoint) -> None:
            endpoint.servers += endpoint.target != target
            endpoint.target = target

        self._call(identifier, aim)

    def set_rules(self, identifier: str, rules: Rules) -> None:
        """Change what counts for new connections. The port is where it is."""
        self._call(identifier, lambda endpoint: setattr(endpoint, "rules", rules))

    def certificate_ends(self, identifier: str) -> datetime | None:
        """When an instance's server certificate ends; None before it was opened."""
        known = self._addresses.get(identifier)
        return known[2].ends if known is not None else None

    def renew_certificate(self, identifier: str, lifetime: timedelta) -> None:
        """Give new connections another certificate, valid for so long."""

        def renew(endpoint: _Endpoint) -> None:
            endpoint.certificate = self._authority.issue([endpoint.address], lifetime)
            self._addresses[identifier] = (endpoint.address, endpoint.port, endpoint.certificate)

        self._call(identifier, renew)

    def set_fault(self, identifier: str, fault: Fault) -> None:
        """Let a fault begin, or end (kind `none`)."""

        def apply(endpoint: _Endpoint) -> None:
            endpoint.fault = fault
            endpoint.changed.set()
            endpoint.changed = asyncio.Event()
            if fault.kind == "cut":
                self._reset(endpoint, fault)

        self._call(identifier, apply)

    def disconnect(self, identifier: str) -> None:
        """Reset every connection, as the end of the host does."""
        self._call(identifier, lambda endpoint: self._reset(endpoint, Fault("cut")))

    def close(self) -> None:
        """Stop everything. Idempotent."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(TimeoutError, RuntimeError):
            self._run(self._close_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()
        self._deciders.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the loop. Raises RuntimeError after `close`."""
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("the endpoints are closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _call(self, identifier: str, change: Callable[[_Endpoint], None]) -> None:
        async def apply() -> None:
            endpoint = self._endpoints.get(identifier)
            if endpoint is not None:
                change(endpoint)

        # Work that is still under way when the fleet closes has nothing to change any more.
        with contextlib.suppress(RuntimeError):
            self._run(apply())

    async def _open(self, identifier: str, rules: Rules) -> tuple[str, int]:
        await self._close_endpoint(identifier)
        if identifier in self._addresses:
            address, port, certificate = self._addresses[identifier]
        else:
            address, port = _free_address({address for address, _, _ in self._addresses.values()}, rules.port)
            certificate = self._authority.issue([address])
        endpoint = _Endpoint(identifier, address, port, certificate, rules)
        try:
            server = await self._listen(endpoint, port)
        except OSError:
            server = await self._listen(endpoint, 0)
        endpoint.server = server
        endpoint.port = server.sockets[0].getsockname()[1]
        self._addresses[identifier] = (address, endpoint.port, certificate)
        self._endpoints[identifier] = endpoint
        return address, endpoint.port

    async def _listen(self, endpoint: _Endpoint, port: int) -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            endpoint.tasks.add(task)
            try:
                await self._serve(endpoint, reader, writer)
            except (OSError, EOFError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
                # The client went away or sent nonsense, or the endpoint closes: nobody is left to be told.
                _abort(writer)
            finally:
                endpoint.tasks.discard(task)
                writer.close()

        return await asyncio.start_server(
            accept, endpoint.address, port, limit=CHUNK_BYTES, family=socket.AF_INET, backlog=512
        )

    async def _close_endpoint(self, identifier: str) -> None:
        endpoint = self._endpoints.pop(identifier, None)
        if endpoint is None:
            return
        if endpoint.server is not None:
            endpoint.server.close()
        self._reset(endpoint, Fault("cut"))
        tasks = list(endpoint.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close_all(self) -> None:
        for identifier in list(self._endpoints):
            await self._close_endpoint(identifier)

    def _reset(self, endpoint: _Endpoint, fault: Fault) -> None:
        for connection in list(endpoint.connections):
            if fault.strikes(connection.side):
                _abort(connection.writer)

    async def _serve(self, endpoint: _Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = endpoint.servers
        caller = await self._admit(endpoint, writer)
        if not caller.allowed:
            while await reader.read(CHUNK_BYTES):
                pass
            return
        connection = _Connection(caller.kind, writer)
        endpoint.connections.add(connection)
        try:
            if endpoint.target is None or (endpoint.fault.kind == "cut" and endpoint.fault.strikes(caller.kind)):
                _abort(writer)
                return
            await self._weather(endpoint, caller.kind)
            async with asyncio.timeout(AUTHENTICATION_TIMEOUT_SECONDS):
                packet = await self._startup(endpoint, reader, writer)
            if endpoint.servers != server:
                _abort(writer)
            elif packet is not None:
                await self._forward(endpoint, caller.kind, packet, reader, writer)
        finally:
            endpoint.connections.discard(connection)

    async def _admit(self, endpoint: _Endpoint, writer: asyncio.StreamWriter) -> Caller:
        rules = endpoint.rules
        peer, local = writer.get_extra_info("peername")[:2], writer.get_extra_info("sockname")[:2]
        try:
            return await self._loop.run_in_executor(
                self._deciders, self._admission, endpoint.identifier, rules.security_groups, rules.port, peer, local
            )
        except Exception:
            logger.exception("admission to %s failed: the connection is dropped", endpoint.identifier)
            return Caller(allowed=False, kind="applications", name="unknown")

    async def _startup(
        self, endpoint: _Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """The packet to begin with at the cluster; None when the client was answered for good."""
        encrypted = False
        while True:
            header = await reader.readexactly(8)
            length, code = struct.unpack("!II", header)
            if not 8 <= length <= STARTUP_PACKET_LIMIT:
                # Direct TLS, which starts without a request, ends here too: libpq asks for it only when told to.
                raise EOFError
            packet = header + await reader.readexactly(length - 8)
            if code == GSSENC_REQUEST:
                writer.write(b"N")
            elif code == SSL_REQUEST and not encrypted:
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(endpoint.certificate.context)
                encrypted = True
            elif code == CANCEL_REQUEST:
                return packet
            else:
                refusal = _refusal(packet, writer.get_extra_info("peername")[0], encrypted, endpoint.rules.force_ssl)
                if refusal is None:
                    return packet
                writer.write(refusal)
                await writer.drain()
                return None

    async def _forward(
        self,
        endpoint: _Endpoint,
        side: Side,
        packet: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if endpoint.target is None:
            _abort(writer)
            return
        try:
            cluster_reader, cluster_writer = await asyncio.open_unix_connection(endpoint.target, limit=CHUNK_BYTES)
        except OSError:
            _abort(writer)
            return
        try:
            cluster_writer.write(packet)
            if struct.unpack_from("!I", packet, 4)[0] != CANCEL_REQUEST and not await self._authenticate(
                endpoint, packet, (reader, writer), (cluster_reader, cluster_writer)
            ):
                return
            there = asyncio.create_task(self._pump(endpoint, side, reader, cluster_writer))
            back = asyncio.create_task(self._pump(endpoint, side, cluster_reader, writer))
            try:
                # PostgreSQL's protocol knows no half-open connection: the end of one direction is the end of both.
                done, _ = await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
                if back in done and not back.exception():
                    await writer.drain()
            finally:
                for task in (there, back):
                    task.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        finally:
            cluster_writer.transport.abort()

    async def _authenticate(self, endpoint: _Endpoint, packet: bytes, client: _Streams, cluster: _Streams) -> bool:
        """Whether the connection goes on: the cluster lets members of rds_iam in at once, so the token is asked for
        here, as RDS does it by PAM. Everybody else's password is between client and cluster.
        """
        (reader, writer), (cluster_reader, _) = client, cluster
        held = b""
        async with asyncio.timeout(AUTHENTICATION_TIMEOUT_SECONDS):
            while True:
                header = await cluster_reader.readexactly(5)
                message = header + await cluster_reader.readexactly(struct.unpack_from("!I", header, 1)[0] - 4)
                held += message
                if header[:1] != NEGOTIATION:  # which comes before what authentication the cluster wants
                    break
            if message == AUTHENTICATION_OK and (
                refusal := await self._refused_token(endpoint, packet, reader, writer)
            ):
                writer.write(refusal)
                await writer.drain()
                return False
        writer.write(held)
        return True

    async def _refused_token(
        self, endpoint: _Endpoint, packet: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        values = _startup_values(packet)
        user, host = values["user"], writer.get_extra_info("peername")[0]
        if writer.get_extra_info("ssl_object") is None:
            return _fatal("28000", f"pg_hba.conf rejects connection {_who(values, host, 'no encryption')}")
        writer.write(ASK_FOR_PASSWORD)
        await writer.drain()
        kind, length = struct.unpack("!cI", await reader.readexactly(5))
        if kind != b"p" or not 5 <= length <= TOKEN_LIMIT:
            raise EOFError
        token = (await reader.readexactly(length - 4)).rstrip(b"\0").decode(errors="replace")
        work = (endpoint.identifier, (endpoint.address, endpoint.port), user, token)
        if not await self._loop.run_in_executor(self._deciders, self._tokens, *work):
            return _fatal("28000", f'PAM authentication failed for user "{user}"')
        if endpoint.target is not None:
            await self._loop.run_in_executor(self._deciders, let_work, endpoint.target, user)
        return None

    async def _pump(
        self, endpoint: _Endpoint, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if endpoint.fault.kind != "none":
                await self._weather(endpoint, side)
            writer.write(chunk)
            await writer.drain()

    async def _weather(self, endpoint: _Endpoint, side: Side) -> None:
        """Wait as long as the fault of the moment makes a chunk wait."""
        if endpoint.fault.kind == "slow" and endpoint.fault.strikes(side):
            await asyncio.sleep(endpoint.fault.delay_ms / 1000)
        while endpoint.fault.kind == "hang" and endpoint.fault.strikes(side):
            await endpoint.changed.wait()


def _refusal(packet: bytes, host: str, encrypted: bool, force_ssl: bool) -> bytes | None:
    """PostgreSQL's own words for a start-up packet that the instance does not accept, None for one it does."""
    values = _startup_values(packet)
    who = _who(values, host, "SSL encryption" if encrypted else "no encryption")
    if not encrypted and force_ssl:
        return _fatal("28000", f"no pg_hba.conf entry {who}")
    if values["user"] in INTERNAL_ROLES:
        return _fatal("28000", f"pg_hba.conf rejects connection {who}")
    return None


def _startup_values(packet: bytes) -> dict[str, str]:
    """The parameters of a start-up packet; `user` and `database` are always there."""
    texts = [text.decode(errors="replace") for text in packet[8:].split(b"\0")]
    values = dict(zip(texts[::2], texts[1::2], strict=False))
    user = values.get("user", "")
    return {**values, "user": user, "database": values.get("database") or user}


def _who(values: dict[str, str], host: str, encryption: str) -> str:
    return f'for host "{host}", user "{values["user"]}", database "{values["database"]}", {encryption}'


def _fatal(state: str, message: str) -> bytes:
    fields = {"S": "FATAL", "V": "FATAL", "C": state, "M": message}
    body = b"".join(name.encode() + value.encode() + b"\0" for name, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of a farewell."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _free_address(taken: set[str], port: int) -> tuple[str, int]:
    """A loopback address no instance has and whose `port` is free; elsewhere than on Linux 127.0.0.1 and any free
    port.
    """
    if sys.platform != "linux":
        return "127.0.0.1", 0
    for _ in range(50):
        address = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(255)}.{secrets.randbelow(254) + 1}"
        if address not in taken and not address.startswith("127.0.") and _is_free(address, port):
            return address, port
    return address, 0


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
