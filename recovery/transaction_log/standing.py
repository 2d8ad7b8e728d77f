"""Where a database stands in the log: exactly, by what it knows about the log's own transactions.

A promoted standby and a restored database have replayed their primary's WAL up to some point, which PostgreSQL does
not tell for certain once it was restarted. But with `track_commit_timestamp` it knows of each transaction when it
committed, to the microsecond, and so does the log: a transaction of the log is in the database when the database knows
its id with just that time. WAL is replayed in order, so what is in it is a beginning of the log. Ids are used anew
after a promotion, but not with the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recovery.connection import Refused, Session
from recovery.transaction_log import segment
from recovery.transaction_log.path import Log
from recovery.transaction_log.position import Position, Transaction, begin
from recovery.transaction_log.segment import CHANGES

_KNOWN = """
SELECT count(*) FROM unnest(CAST(:xids AS text[]), CAST(:times AS text[])) AS logged (xid, at)
WHERE pg_xact_commit_timestamp(CAST(CAST(xid AS text) AS xid)) = CAST(at AS timestamptz)"""
_NOT_TRACKED = "55000"
_ASKED = 20_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StandsNowhere(Exception):
    """It cannot be told where the database stands in the log."""


def find(session: Session, log: Log, seconds: float) -> Position:
    """The last transaction of the log that is in the database; StandsNowhere when there is none or it cannot tell."""
    for epoch in reversed(log.epochs):
        paths = log.segments(epoch)
        newest = _newest_known(session, epoch, paths, seconds)
        if newest is not None:
            found = last_known(session, list(_transactions(epoch, paths[newest])), seconds)
            assert found is not None
            return found.at
    raise StandsNowhere(
        "No transaction of the log is in the database: it is older than the log, or of another history, or its "
        "track_commit_timestamp was switched on later; say where it stands with --from EPOCH:LSN if you know it."
    )


def last_known(session: Session, transactions: Sequence[Transaction], seconds: float) -> Transaction | None:
    """The last of these transactions, in the log's order, that is in the database."""
    known = 0
    for at in range(0, len(transactions), _ASKED):
        asked = transactions[at : at + _ASKED]
        found = _count(session, asked, seconds)
        known += found
        if found < len(asked):
            break
    return transactions[known - 1] if known else None


def _newest_known(session: Session, epoch: int, paths: list[Path], seconds: float) -> int | None:
    """The last segment whose first transaction is in the database: in ever larger steps back, then halving."""

    def knows(number: int) -> bool | None:
        first = next(_transactions(epoch, paths[number]), None)
        return None if first is None else _count(session, [first], seconds) == 1

    kept = [number for number, path in enumerate(paths) if segment.read_header(path).kind == CHANGES]
    high, step = len(kept), 1  # kept[high:] are not in the database
    low = high - step
    while low >= 0 and not knows(kept[low]):
        high, step = low, step * 2
        low = max(0, high - step) if high > 0 else -1
    if low < 0:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if knows(kept[middle]) else (low, middle)
    return kept[low]


def _transactions(epoch: int, path: Path) -> Iterator[Transaction]:
    for message in segment.messages(segment.read(path)):
        if message[:1] == b"B":
            yield begin(message, epoch)


def _count(session: Session, transactions: Sequence[Transaction], seconds: float) -> int:
    try:
        ((known,),) = session.run(
            _KNOWN,
            seconds,
            xids=[str(transaction.xid) for transaction in transactions],
            times=[(_EPOCH + timedelta(microseconds=t.time_us)).isoformat() for t in transactions],
        )
    except Refused as refused:
        if refused.sqlstate != _NOT_TRACKED:
            raise
        raise StandsNowhere(
            f"track_commit_timestamp is off at {session.endpoint}, so it cannot tell where it stands; switch it on in "
            "its parameter group before the next incident, and say where it stands with --from EPOCH:LSN now."
        ) from refused
    return int(known)
