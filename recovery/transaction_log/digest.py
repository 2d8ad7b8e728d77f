"""A digest per table, so that two databases can be compared without moving their rows.

Independent of the rows' order and of where they stand; two sums of 64-bit hashes of each row's text. Made to notice
differences, not to withstand somebody who makes them on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

from recovery.connection import Session
from recovery.transaction_log.batches import OWN_SCHEMA
from recovery.transaction_log.rows import TEXT_FORM, quote

_TABLES = """
SELECT space.nspname, class.relname
FROM pg_catalog.pg_class AS class JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
WHERE class.relkind = 'r' AND class.relpersistence = 'p'
  AND space.nspname NOT IN ('pg_catalog', 'information_schema', :own) AND space.nspname NOT LIKE 'pg\\_%'
ORDER BY 1, 2"""

_DIGEST = """
SELECT count(*), coalesce(sum(hashtextextended(row_text, 0)::numeric), 0)::text,
       coalesce(sum(hashtextextended(row_text, 1)::numeric), 0)::text
FROM (SELECT (whole.*)::text COLLATE "C" AS row_text FROM ONLY {table} AS whole) AS texts"""


@dataclass(frozen=True)
class Digest:
    """A table's rows, and the two sums of their hashes."""

    rows: int
    sums: tuple[str, str]


def digests(session: Session, seconds: float) -> dict[str, Digest]:
    """The digest of every table that holds rows itself, by its quoted name; the machinery's own tables left out."""
    found = {}
    with session.transaction(seconds):
        session.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", seconds)
        session.run(TEXT_FORM.replace("SET ", "SET LOCAL "), seconds)
        for schema, table in session.run(_TABLES, seconds, own=OWN_SCHEMA):
            name = f"{quote(schema)}.{quote(table)}"
            ((rows, first, second),) = session.run(_DIGEST.format(table=name), seconds)
            found[name] = Digest(int(rows), (str(first), str(second)))
    return found
