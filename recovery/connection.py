"""TLS verify-full connections to PostgreSQL that can never take longer than they were given.

Socket time-outs are per read: a server that sends one byte now and then defeats them. Here one deadline covers a whole
sign-in or statement, kept by a watchdog that shuts the socket down under the driver.
"""

import contextlib
import queue
import re
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import Connection
from scramp import ScramException  # type: ignore[import-untyped]

from recovery.members import Endpoint

NOT_ADMITTED = ("28P01", "28000")
"""A sign-in that the server refuses: wrong password or token, or no such user."""
NO_FREE_SLOT = "53300"
CLIENT_CHECK = "1s"
"""How soon the server notices that we have hung up: statements of ours that wait for a lock must not pile up there."""
_TLS_REQUEST = struct.pack("!ii", 8, 80877103)
_COPY_READ_BYTES = 1 << 18
_COPY_HELD_BYTES = 1 << 16
"""So much of a COPY stream's end is looked at for how it ended; an error's message must fit in."""
_FRAME = struct.Struct("!cI")
_ANSWER = rb"Z\0\0\0\x05IT.{4}\0\x01.{1,80}D\0\0\0\x2a\0\x01\0\0\0\x20.{32}C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I\Z"
_NO_ROWS = rb"\x19PGCOPY\n\xff\r\n\0\0{8}"
_COPIED = re.compile(rb"d\0\0\0(?:\x06|" + _NO_ROWS + rb")\xff\xffc\0\0\0\x04C\0\0\0.COPY (\d+)\0" + _ANSWER, re.DOTALL)
_FAILED = re.compile(rb"E.{4}S[A-Z]+\0V[A-Z]+\0C([0-9A-Z]{5})\0M([^\0]*)\0.*?\0\0" + _ANSWER, re.DOTALL)


class Unreachable(Exception):
    """Nothing at the endpoint spoke PostgreSQL to us in time."""


class TimedOut(Unreachable):
    """The endpoint did not finish in the time it was given."""


class Refused(Exception):
    """The server is there and answered with an error; `sqlstate` says which."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{message} (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


class _NotTaken(Exception):
    """Who takes the stream failed, for `reason`: no fault of the connection."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class Credentials:
    """A database user and its password."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Database:
    """What every sign-in needs besides endpoint and user: database name and the TLS context (verify-full)."""

    name: str
    tls: ssl.SSLContext


def verify_full(ca_file: str) -> ssl.SSLContext:
    """A TLS context like libpq's `sslmode=verify-full sslrootcert=ca_file`: chain and host name are checked."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _resolve(endpoint: Endpoint, seconds: float) -> Sequence[Any]:
    """Addresses of the endpoint. The resolver knows no time-out, so it runs in a thread that may be left behind."""
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM))
        except OSError as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answer.get(timeout=max(seconds, 0.001))
    except queue.Empty:
        raise TimedOut(f"The name {endpoint.host} was not resolved within {seconds:.1f} s.") from None
    if isinstance(found, OSError):
        raise Unreachable(f"The name {endpoint.host} cannot be resolved: {found}.") from found
    return list(found)


def _connect(endpoint: Endpoint, deadline: float) -> socket.socket:
    last: OSError | None = None
    for family, kind, protocol, _, address in _resolve(endpoint, deadline - time.monotonic()):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(remaining)
            connected.connect(address)
            connected.settimeout(None)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
        except OSError as error:
            connected.close()
            last = error
    if last is None or isinstance(last, TimeoutError):
        raise TimedOut(f"{endpoint} did not accept a connection in time.")
    raise Unreachable(f"{endpoint} refuses connections: {last.strerror or last}.")


def answers(endpoint: Endpoint, seconds: float, attempts: int = 3) -> bool:
    """Whether anything at the endpoint answers PostgreSQL's request for TLS within `seconds`, to any of the attempts:
    they begin one after the other in the first half of that time, so that a lost packet is not taken for silence."""
    deadline = time.monotonic() + seconds
    heard: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            with _connect(endpoint, deadline) as raw:
                raw.settimeout(max(0.001, deadline - time.monotonic()))
                raw.sendall(_TLS_REQUEST)
                heard.put(raw.recv(1) != b"")
        except (OSError, Unreachable):
            heard.put(False)

    waiting = 0
    for number in range(1, attempts + 1):
        threading.Thread(target=attempt, daemon=True).start()
        waiting += 1
        until = deadline if number == attempts else time.monotonic() + seconds / (2 * attempts)
        while waiting and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                if heard.get(timeout=left):
                    return True
                waiting -= 1
    return False


def _secure(raw: socket.socket, endpoint: Endpoint, tls: ssl.SSLContext) -> ssl.SSLSocket:
    """TLS as PostgreSQL begins it.

    Done here and not by the driver: it would bind SCRAM to the TLS channel by a function that scramp 1.5 no longer has;
    with the certificate and its name verified the binding adds nothing.
    """
    raw.sendall(_TLS_REQUEST)
    answer = raw.recv(1)
    if answer != b"S":
        raise InterfaceError(f"it does not offer TLS (answer {answer!r})")
    return tls.wrap_socket(raw, server_hostname=endpoint.host)


class _Watchdog:
    """Shuts a connection down at the deadline, whatever the driver is waiting for."""

    def __init__(self, handle: socket.socket) -> None:
        # A duplicate: wrapping a socket in TLS detaches the original object; shutdown works on the connection itself.
        self._handle = handle
        self.fired = False

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        self.fired = False
        timer = threading.Timer(max(seconds, 0.001), self._fire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _fire(self) -> None:
        self.fired = True
        self.shut()

    def shut(self) -> None:
        with contextlib.suppress(OSError):
            self._handle.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        self._handle.close()


class Session:
    """One signed-in connection. After Unreachable it is closed; after Refused it goes on unless the server ended it."""

    def __init__(self, connection: Any, watchdog: _Watchdog, endpoint: Endpoint, credentials: Credentials) -> None:
        self._connection = connection
        self._watchdog = watchdog
        self.endpoint = endpoint
        self.credentials = credentials
        self.closed = False

    @classmethod
    def open(
        cls, endpoint: Endpoint, database: Database, credentials: Credentials, seconds: float, application: str
    ) -> "Session":
        """Sign in within `seconds` (name, TCP, TLS, password together), or raise Unreachable, TimedOut or Refused."""
        deadline = time.monotonic() + seconds
        raw = _connect(endpoint, deadline)
        watchdog = _Watchdog(raw.dup())
        try:
            with watchdog.limit(deadline - time.monotonic()), _named_errors(endpoint, watchdog, seconds):
                secured = _secure(raw, endpoint, database.tls)
                connection = Connection(
                    credentials.username,
                    password=credentials.password,
                    database=database.name,
                    ssl_context=False,
                    application_name=application,
                    startup_params={"client_connection_check_interval": CLIENT_CHECK},
                    sock=secured,
                )
        except BaseException:
            watchdog.shut()
            watchdog.release()
            raw.close()
            raise
        return cls(connection, watchdog, endpoint, credentials)

    def run(self, sql: str, seconds: float, **parameters: object) -> list[list[Any]]:
        """Rows of one statement, or of several when there are no parameters; Unreachable/TimedOut close the session."""
        if self.closed:
            raise Unreachable(f"The connection to {self.endpoint} is closed.")
        try:
            with self._watchdog.limit(seconds), _named_errors(self.endpoint, self._watchdog, seconds):
                return self._connection.run(sql, **parameters) or []
        except Unreachable:
            self.abort()
            raise

    def count(self, sql: str, seconds: float) -> int:
        """Rows that one statement without parameters found or changed; raises as `run` does."""
        self.run(sql, seconds)
        return max(0, int(self._connection.row_count))

    def copy_in(self, statement: str, seconds: float, blocks: Sequence[bytes]) -> None:
        """Feed `COPY … FROM STDIN` with blocks cut anywhere; raises as `run` does, and then nothing was copied."""
        if self.closed:
            raise Unreachable(f"The connection to {self.endpoint} is closed.")
        try:
            with self._watchdog.limit(seconds), _named_errors(self.endpoint, self._watchdog, seconds):
                self._connection.run(statement, stream=blocks)
        except Unreachable:
            self.abort()
            raise

    def copy_out(self, query: str, seconds: float, take: Callable[[bytes], None]) -> int:
        """Hand the stream of `COPY (query) TO STDOUT (FORMAT binary)` to `take` as it comes; returns the rows' number.

        `take` gets the CopyData frames as the server sends them, in pieces cut anywhere, without the stream's trailer.
        Raises as `run` does, and then what `take` has got is worth nothing.
        """
        if self.closed:
            raise Unreachable(f"The connection to {self.endpoint} is closed.")

        def guarded(data: bytes) -> None:
            try:
                take(data)
            except Exception as error:
                raise _NotTaken(error) from error

        try:
            with self._watchdog.limit(seconds), _named_errors(self.endpoint, self._watchdog, seconds):
                return _copy_out(self._connection, query, guarded)
        except Unreachable:
            self.abort()
            raise
        except _NotTaken as error:
            self.abort()  # the rest of the stream is still under way
            raise error.reason from None

    @contextlib.contextmanager
    def transaction(self, seconds: float) -> Iterator[None]:
        """What runs inside happens together or not at all."""
        self.run("BEGIN", seconds)
        try:
            yield
            self.run("COMMIT", seconds)
        except BaseException:
            if not self.closed:
                with contextlib.suppress(Refused, Unreachable):
                    self.run("ROLLBACK", seconds)
            raise

    def close(self) -> None:
        """Say goodbye and close; takes a second at most."""
        if not self.closed:
            with contextlib.suppress(OSError, InterfaceError), self._watchdog.limit(1.0):
                self._connection.close()
            self.abort()

    def abort(self) -> None:
        """Drop the connection without a word: the server may not be listening."""
        if not self.closed:
            self.closed = True
            self._watchdog.shut()
            with contextlib.suppress(OSError, InterfaceError):
                self._connection.close()
            self._watchdog.release()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _copy_out(connection: Any, query: str, take: Callable[[bytes], None]) -> int:
    """The driver looks at every row; this looks at none of them, and so needs another way to find the stream's end.

    A second query is sent right behind the first, which the server answers whatever became of the first, with a
    number drawn for this call: what is stored in the database cannot imitate it.
    """
    sentinel = secrets.token_hex(16)
    end = b"D\0\0\0\x2a\0\x01\0\0\0\x20" + sentinel.encode() + b"C\0\0\0\rSELECT 1\0Z\0\0\0\x05I"
    connection.send_QUERY(f"COPY ({query}) TO STDOUT (FORMAT binary)")
    connection.send_QUERY(f"SELECT '{sentinel}'")
    stream = connection._sock
    stream.flush()
    held, kind = bytearray(), b""
    while kind not in (b"H", b"E"):
        start = stream.read(_FRAME.size)
        kind, length = _FRAME.unpack(start)
        body = stream.read(length - 4)
        held += start + body if kind == b"E" else b""
    while not held.endswith(end):
        piece = stream.read1(_COPY_READ_BYTES)
        if not piece:
            raise InterfaceError("network error")
        held += piece
        if len(held) > 2 * _COPY_HELD_BYTES:
            with memoryview(held) as view:  # a slice of the bytearray itself would be one copy more
                piece = bytes(view[:-_COPY_HELD_BYTES])
            take(piece)
            del held[:-_COPY_HELD_BYTES]
    copied = _COPIED.search(held)
    if copied is not None:
        take(bytes(held[: copied.start()]))
        return int(copied[1])
    failed = _FAILED.search(held)
    if failed is None:
        raise InterfaceError("the answer to COPY ended neither well nor with an error")
    raise DatabaseError({"C": failed[1].decode(), "M": failed[2].decode(errors="replace")})


@contextlib.contextmanager
def _named_errors(endpoint: Endpoint, watchdog: _Watchdog, seconds: float) -> Iterator[None]:
    """Turn what driver, TLS and socket raise into Refused, TimedOut or Unreachable."""
    try:
        yield
    except DatabaseError as error:
        if watchdog.fired:
            raise TimedOut(f"{endpoint} did not answer within {seconds:.1f} s.") from error
        details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        raise Refused(details.get("C", "?????"), details.get("M", str(error))) from error
    except ssl.SSLCertVerificationError as error:
        raise Refused("08P01", f"the certificate of {endpoint} is not accepted: {error.verify_message}") from error
    except (OSError, InterfaceError, ScramException, struct.error, ValueError, KeyError, IndexError) as error:
        # From struct.error on: the driver's way to say that what arrived is not PostgreSQL's protocol, or is cut off.
        if watchdog.fired:
            raise TimedOut(f"{endpoint} did not answer within {seconds:.1f} s.") from error
        cause = error.__cause__ or error
        raise Unreachable(f"{endpoint} broke the connection: {cause}.") from error
