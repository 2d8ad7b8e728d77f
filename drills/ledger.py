"""The load of a drill: uniquely numbered transactions, and what the client was told of each."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import psycopg

TABLE = "public.drill_ledger"
Outcome = Literal["acknowledged", "failed"]


@dataclass(frozen=True)
class Attempt:
    """One transaction as its client saw it. Times are seconds since the epoch on the client's clock.

    `acknowledged` means that COMMIT was answered; `failed` that it was not, which leaves open whether the row exists.
    `host` is the address of the member that was asked, where one was reached.
    """

    number: int
    started: float
    ended: float
    outcome: Outcome
    error: str | None = None
    host: str | None = None


class Connect(Protocol):
    """Opens a connection to the writer, as an application would."""

    def __call__(self) -> psycopg.Connection[tuple[object, ...]]:
        """Return an open connection in autocommit mode."""
        ...


ANSWER_SECONDS = 5.0
"""After this long without an answer a client gives its connection up. On a network `tcp_user_timeout` does that; in the
local cloud the kernel of this machine acknowledges what a server that hangs never reads."""


class Ledger:
    """Writers that keep inserting numbered rows through the writer URI, each a transaction of its own, until stopped.

    A writer whose transaction fails drops its connection and comes back with the *next* number after `pause` seconds:
    a number (from `first` on) is never written twice, so a row that is there without an acknowledgement is not counted
    as one, and none is counted double.
    """

    def __init__(
        self, connect: Connect, *, writers: int = 8, pause: float = 0.1, interval: float = 0.04, first: int = 1
    ) -> None:
        self._connect = connect
        self._pause = pause
        self._interval = interval
        self._numbers = itertools.count(first)
        self._attempts: list[Attempt] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, name=f"writer-{n}", daemon=True) for n in range(writers)]
        self._broken: list[str] = []
        self._waiting: dict[str, tuple[float, psycopg.Connection[tuple[object, ...]]]] = {}
        self._patience = threading.Thread(target=self._give_up, name="patience", daemon=True)

    def create_table(self) -> None:
        """Create the ledger's table where it is missing."""
        with self._connect() as connection:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {TABLE} (number bigint PRIMARY KEY, written timestamptz "
                f"DEFAULT clock_timestamp(), note text)"
            )

    def empty_table(self) -> None:
        """Remove the rows of another ledger, whose numbers begin at 1 too."""
        with self._connect() as connection:
            connection.execute(f"TRUNCATE {TABLE}")

    def start(self) -> None:
        """Start the writers."""
        for thread in (*self._threads, self._patience):
            thread.start()

    def stop(self) -> None:
        """Stop the writers after the transaction that each is in."""
        self._stop.set()
        for thread in (*self._threads, self._patience):
            if thread.ident is not None:
                thread.join(timeout=ANSWER_SECONDS + 5)

    @property
    def attempts(self) -> list[Attempt]:
        """All attempts so far, in the order in which they ended."""
        with self._lock:
            return list(self._attempts)

    @property
    def broken(self) -> list[str]:
        """Why writers ended before they were told to; a measurement is not worth anything then."""
        with self._lock:
            return list(self._broken)

    def acknowledged_since(self, moment: float) -> Attempt | None:
        """The first acknowledged transaction that was started after a moment."""
        with self._lock:
            later = (a for a in reversed(self._attempts) if a.outcome == "acknowledged" and a.started > moment)
            return min(later, key=lambda attempt: attempt.ended, default=None)

    def rows_present(self) -> set[int]:
        """The numbers that the database holds now."""
        with self._connect() as connection:
            return {int(str(row[0])) for row in connection.execute(f"SELECT number FROM {TABLE}")}  # noqa: S608

    def _write(self) -> None:
        connection: psycopg.Connection[tuple[object, ...]] | None = None
        try:
            while not self._stop.is_set():
                with self._lock:
                    number = next(self._numbers)
                started = time.time()
                try:
                    if connection is None:
                        connection = self._connect()
                    self._insert(connection, number)
                except (psycopg.Error, OSError) as error:
                    self._note(Attempt(number, started, time.time(), "failed", _one_line(error), _host(connection)))
                    _close(connection)
                    connection = None
                    self._stop.wait(self._pause)
                else:
                    self._note(Attempt(number, started, time.time(), "acknowledged", host=_host(connection)))
                    self._stop.wait(self._interval)
        except Exception as error:
            # The writer is the probe: its own failure must be known, or silence would look like an outage.
            with self._lock:
                self._broken.append(f"{threading.current_thread().name}: {type(error).__name__}: {error}")
        finally:
            _close(connection)

    def _insert(self, connection: psycopg.Connection[tuple[object, ...]], number: int) -> None:
        name = threading.current_thread().name
        with self._lock:
            self._waiting[name] = (time.monotonic(), connection)
        try:
            connection.execute(f"INSERT INTO {TABLE} (number, note) VALUES (%s, %s)", (number, "市民記録"))  # noqa: S608
        finally:
            with self._lock:
                self._waiting.pop(name, None)

    def _give_up(self) -> None:
        """Shut the connections on which an answer is overdue; their writers then see a broken connection."""
        while not self._stop.wait(0.2) or self._waiting:
            overdue = time.monotonic() - ANSWER_SECONDS
            with self._lock:
                hung = [connection for since, connection in self._waiting.values() if since < overdue]
            for connection in hung:
                with contextlib.suppress(OSError, psycopg.Error):
                    wire = socket.socket(fileno=os.dup(connection.fileno()))
                    wire.shutdown(socket.SHUT_RDWR)
                    wire.close()

    def _note(self, attempt: Attempt) -> None:
        with self._lock:
            self._attempts.append(attempt)


def acknowledged(attempts: Iterable[Attempt]) -> Iterator[Attempt]:
    """The attempts that were acknowledged."""
    return (attempt for attempt in attempts if attempt.outcome == "acknowledged")


def _close(connection: psycopg.Connection[tuple[object, ...]] | None) -> None:
    if connection is not None:
        connection.close()


def _host(connection: psycopg.Connection[tuple[object, ...]] | None) -> str | None:
    """Whom a connection of several hosts leads to."""
    try:
        return connection.info.host if connection is not None else None
    except psycopg.Error:
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
