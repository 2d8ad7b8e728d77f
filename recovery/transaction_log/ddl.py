"""DDL in the log: pgoutput carries none, so event triggers keep it as logical messages, and roll forward replays it.

Capture (`recovery/sql/ddl.sql`). Each DDL statement emits one transactional message with the prefix `citizens.ddl`, at
its end, so it stands in the log behind the rows that were changed before it and before those changed after it. The
content is 64 hexadecimal digits, which seal what follows with the key in `recovery.ddl_key`, and then JSON in UTF-8:

    tag        PostgreSQL's command tag, as "ALTER TABLE"
    text       what the client sent, whole, however many statements it holds; only in the first message of a
               transaction about that text, for a schema in one string would be kept once for each of its tables
    query      names that text: messages with the same `query` are about the same one
    context    instead of a text, when a function or DO block ran the statement: PostgreSQL's context, which begins
               with the statement
    number     this is the so-manieth statement with this tag in that text
    objects    [{type, identity}] of what was created or altered; `dropped` [{type, identity, own}] what was dropped
    role       who ran it, and so owns what it made; `settings` what text means something else without: search_path …
    rewritten  {table: reason} for tables that were written anew (PostgreSQL's bits: 2 a default, 4 a type)
    missing    [[table, column, value]] of columns whose rows take their value from the catalog
    table      CREATE TABLE AS and SELECT INTO: the table as it became; its rows are in the log as any others
    failed     why the statement could not be kept

Not kept: what concerns temporary objects or the schema `recovery`, what extensions' scripts do inside of CREATE
EXTENSION, REINDEX, and DDL of the machinery (`recovery.own_ddl`). Nothing says it of roles, databases and tablespaces:
event triggers do not fire for them.

Replay. `apply(session, content)` runs in the caller's transaction, when all rows before the message are applied. It
expects `session_replication_role = replica` and puts role and settings back. A table of CREATE TABLE AS has rows
*before* its message: `comes_first(content)` is true for it, apply it before the rows that stand just before it in the
transaction; where the rows came in an earlier batch, make the table by `make_table` and apply the message as usual. A
value of ALTER TYPE … ADD VALUE may be used only after a commit: commit where the log's transaction does.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from recovery.connection import Refused, Session
from recovery.transaction_log.statements import Statement, Unreadable, split

PREFIX = "citizens.ddl"
SECONDS = 600.0
"""A statement may rewrite a table."""
OWN = "SET LOCAL recovery.own_ddl = on"
"""What the main user runs after this in its transaction is the machinery's and is not kept."""
_SEAL = 64
_REWRITE_DEFAULT, _REWRITE_TYPE = 2, 4
_SETTINGS = (
    "search_path", "TimeZone", "DateStyle", "IntervalStyle", "standard_conforming_strings",
    "default_table_access_method", "default_toast_compression",
)  # fmt: skip
_ONLY_BY_FUNCTION = """
SELECT FROM pg_catalog.pg_proc JOIN pg_catalog.pg_roles AS owner ON owner.oid = proowner
WHERE pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'recovery') AND proname = 'run_ddl'
  AND owner.rolname = :role AND NOT pg_catalog.pg_has_role(owner.oid, 'SET')"""
_NESTED = re.compile(
    r'SQL statement "(.*?)"\n?(?:\Z|'
    r'(?=PL/\w+ (?:function|procedure|anonymous)|SQL (?:statement|function|expression) "))',
    re.DOTALL,
)
_CLOCKS = frozenset(
    re.findall(
        r"\w+",
        "NOW CLOCK_TIMESTAMP STATEMENT_TIMESTAMP TRANSACTION_TIMESTAMP TIMEOFDAY "
        "CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP LOCALTIME LOCALTIMESTAMP",
    )
)
_TRIGGERS = {
    "recovery_ddl_extension": "note_ddl_extension",
    "recovery_ddl_rewritten": "note_ddl_rewritten",
    "recovery_ddl_dropped": "note_ddl_dropped",
    "recovery_ddl_1_caller": "note_ddl_caller",
    "recovery_ddl_2_keep": "keep_ddl",
}


class DdlRefused(Exception):
    """DDL of the log that cannot be replayed so that the database becomes what the primary was."""


# -- the primary's side -----------------------------------------------------------------------------------------------


@lru_cache
def _source() -> tuple[str, dict[str, str]]:
    """The SQL that puts everything in place, and the body of each function in it."""
    sql = (Path(__file__).parents[1] / "sql" / "ddl.sql").read_text(encoding="utf-8")
    bodies = re.findall(r"FUNCTION recovery\.(\w+)\([^)]*\) RETURNS.*?\$body\$(.*?)\$body\$", sql, re.DOTALL)
    return sql, dict(bodies)


def installed(session: Session, seconds: float) -> bool:
    """Whether DDL is kept: every trigger fires always, and its function is the one of this program."""
    bodies = _source()[1]
    functions = dict(
        session.run(
            "SELECT proname::text, prosrc FROM pg_catalog.pg_proc WHERE pronamespace = "
            "(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'recovery')",
            seconds,
        )
    )
    triggers = dict(
        session.run(
            "SELECT evtname::text, proname::text FROM pg_catalog.pg_event_trigger "
            "JOIN pg_catalog.pg_proc ON pg_proc.oid = evtfoid WHERE evtenabled = 'A'",
            seconds,
        )
    )
    return (
        all(functions.get(name) == body for name, body in bodies.items())
        and _TRIGGERS.items() <= triggers.items()
        and bool(session.run("SELECT 1 WHERE to_regclass('recovery.ddl_key') IS NOT NULL", seconds))
        and bool(session.run("SELECT 1 FROM recovery.ddl_key", seconds))
    )


def install(session: Session, seconds: float) -> None:
    """Put key, functions and triggers in place, in the caller's transaction; a repeat puts right what was changed."""
    session.run(OWN, seconds)
    session.run(_source()[0], seconds)


def remove(session: Session, seconds: float) -> None:
    """DDL is no longer kept; key and functions stay, so that a log that is kept can still be replayed."""
    for trigger in _TRIGGERS:
        session.run(f"DROP EVENT TRIGGER IF EXISTS {trigger}", seconds)


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ddl:
    """What a message says; the fields are the module's documentation's."""

    tag: str
    seal: str
    body: bytes = field(repr=False)
    query: str = ""
    text: str | None = None
    context: str | None = None
    number: int = 1
    objects: Sequence[Mapping[str, Any]] = ()
    dropped: Sequence[Mapping[str, Any]] = ()
    role: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    rewritten: Mapping[str, int] = field(default_factory=dict)
    missing: Sequence[tuple[str, str, str]] = ()
    table: Mapping[str, Any] | None = None
    failed: str | None = None

    def __str__(self) -> str:
        """For people: tag and objects, as "DROP TABLE public.citizens"."""
        names = [str(found["identity"]) for found in (*self.objects, *self.dropped) if found.get("identity")]
        return f"{self.tag} {', '.join(dict.fromkeys(names))}".strip()


def read(content: bytes) -> Ddl:
    """A message's content; DdlRefused when it is not one of ours."""
    try:
        found = json.loads(content[_SEAL:])
        known = {name: value for name, value in found.items() if name in Ddl.__dataclass_fields__}
        return Ddl(**(known | {"seal": content[:_SEAL].decode("ascii"), "body": content[_SEAL:]}))
    except (ValueError, TypeError, AttributeError) as error:
        raise DdlRefused(
            f"A message with the prefix {PREFIX} is not DDL that this program can read: {error}."
        ) from error


def comes_first(content: bytes) -> bool:
    """Whether the rows just before the message are of the table that it makes."""
    return read(content).table is not None


# -- the other side ---------------------------------------------------------------------------------------------------


def make_table(session: Session, schema: str, name: str, columns: Sequence[tuple[str, str]], seconds: float) -> None:
    """Make a table for rows whose CREATE TABLE AS follows: `columns` are (name, type as PostgreSQL writes it)."""
    listed = ", ".join(f"{_quoted(column)} {kind}" for column, kind in columns)
    session.run(f"CREATE TABLE {_quoted(schema)}.{_quoted(name)} ({listed})", seconds)


class Replay:
    """Replays the DDL of a log onto one database, message after message."""

    def __init__(self, session: Session, seconds: float = SECONDS) -> None:
        self._session = session
        self._seconds = seconds
        self._texts: dict[str, str] = {}
        self._key: bytes | None = None

    def apply(self, content: bytes) -> None:
        """Do what a message says; DdlRefused, in one sentence, when that cannot be done faithfully."""
        ddl = read(content)
        if ddl.text is not None:
            self._texts = {ddl.query: ddl.text}
        self._require_seal(ddl)
        if ddl.failed is not None:
            raise DdlRefused(f"{ddl} could not be kept by the primary: {ddl.failed}.")
        try:
            if ddl.table is not None:
                self._as(ddl, lambda run: self._make(ddl, run))
            else:
                self._run(ddl)
        except Refused as refused:
            raise DdlRefused(f"{ddl} cannot be replayed: {refused}.") from refused

    def _require_seal(self, ddl: Ddl) -> None:
        if self._key is None:
            ((present,),) = self._session.run("SELECT to_regclass('recovery.ddl_key') IS NOT NULL", self._seconds)
            rows = self._session.run("SELECT key FROM recovery.ddl_key", self._seconds) if present else []
            if not rows:
                raise DdlRefused(
                    "The database has no key in recovery.ddl_key to tell the primary's DDL from anybody's."
                )
            self._key = bytes(rows[0][0])
        inner = hashlib.sha256(self._key + ddl.body).digest()
        if not hmac.compare_digest(hashlib.sha256(self._key + inner).hexdigest(), ddl.seal):
            raise DdlRefused(
                f"{ddl} is not sealed with this database's key: it was written by somebody else than the primary's "
                "trigger, or this is a restore to before DDL was kept; look at it, and restore to another moment."
            )

    def _statement(self, ddl: Ddl) -> Statement:
        """The statement that a message is about, out of the text it came in."""
        text = self._texts.get(ddl.query)
        if ddl.context is not None:
            nested = _NESTED.match(ddl.context)
            if nested is None:
                raise DdlRefused(f"{ddl} was run inside of a routine whose statements are not known: {ddl.context!r}.")
            text = nested[1]
        if text is None:
            raise DdlRefused(f"{ddl} cannot be replayed: the text it came in is not in the log.")
        try:
            statements = split(text, conforming=ddl.settings.get("standard_conforming_strings", "on") == "on")
        except Unreadable as error:
            raise DdlRefused(f"{ddl} cannot be replayed: {error} in {text[:200]!r}.") from error
        candidates = [found for found in statements if found.has_tag(ddl.tag)]
        undone = any(found.words[0] in ("ROLLBACK", "ABORT") for found in statements)
        if not candidates or (len(candidates) > 1 and undone):
            raise DdlRefused(f"{ddl} cannot be told from the other statements of the text it came in: {text[:200]!r}.")
        return candidates[(ddl.number - 1) % len(candidates)]

    def _run(self, ddl: Ddl) -> None:
        statement = self._statement(ddl)
        if statement.is_temporary:
            return
        if ddl.tag == "ALTER TABLE":
            self._require_repeatable(ddl, statement)
        before = {table: self._columns(table) for table in {*ddl.rewritten, *(row[0] for row in ddl.missing)}}
        self._as(ddl, lambda run: run(_in_a_transaction(ddl.tag, statement)))
        for table, known in before.items():
            made = [
                column for column, generated in self._columns(table).items() if column not in known and not generated
            ]
            if made and ddl.rewritten.get(table, 0) & _REWRITE_DEFAULT:
                raise DdlRefused(
                    f"{ddl} gave each row a value of its own in {', '.join(made)}, which the log does not hold; "
                    "restore to before it, or to a backup taken after it."
                )
            for other, column, value in ddl.missing:
                if other == table and column in made:
                    self._session.run(f"UPDATE ONLY {table} SET {_quoted(column)} = {_literal(value)}", self._seconds)  # noqa: S608 - quoted

    def _require_repeatable(self, ddl: Ddl, statement: Statement) -> None:
        """A type change by an expression gives the same again, unless the expression asks a clock or a generator."""
        words = statement.words
        if not any(reason & _REWRITE_TYPE for reason in ddl.rewritten.values()) or "USING" not in words:
            return
        after = words[words.index("USING") :]
        called = {word.lower().strip('"') for word, follows in itertools.pairwise(after) if follows == "("}
        unlike = [row[0] for row in self._session.run(
            "SELECT DISTINCT proname::text FROM pg_catalog.pg_proc "
            "WHERE provolatile = 'v' AND proname = ANY (CAST(:called AS text[]))",
            self._seconds, called=list(called),
        )]  # fmt: skip
        unlike += sorted(_CLOCKS & set(after))
        if unlike:
            raise DdlRefused(f"{ddl} made values by {', '.join(unlike)}, which gives others now.")

    def _columns(self, table: str) -> dict[str, bool]:
        """A table's columns, and whether each is generated."""
        rows = self._session.run(
            "SELECT attname::text, attgenerated <> '' FROM pg_catalog.pg_attribute "
            "WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped",
            self._seconds,
            name=table,
        )
        return {str(name): bool(generated) for name, generated in rows}

    def _make(self, ddl: Ddl, run: Callable[[str], object]) -> None:
        """The table of CREATE TABLE AS, empty, or what is different in the one that was made for its rows."""
        assert ddl.table is not None
        name, columns = str(ddl.table["name"]), ddl.table["columns"]
        if self._columns(name):
            for column, kind, collation in columns:
                if collation is not None:
                    run(f"ALTER TABLE {name} ALTER COLUMN {_quoted(column)} TYPE {kind} COLLATE {collation}")
            run(f"ALTER TABLE {name} OWNER TO {_quoted(ddl.role)}")
            return
        listed = ", ".join(
            f"{_quoted(column)} {kind}" + (f" COLLATE {collation}" if collation else "")
            for column, kind, collation in columns
        )
        options = f" WITH ({', '.join(ddl.table['options'])})" if ddl.table.get("options") else ""
        unlogged = "UNLOGGED " if ddl.table["unlogged"] else ""
        run(f"CREATE {unlogged}TABLE {name} ({listed}) USING {_quoted(ddl.table['method'])}{options}")

    def _as(self, ddl: Ddl, act: Callable[[Callable[[str], object]], object]) -> None:
        """Act as the role and with the settings that the statement ran with, and put them back.

        On RDS nobody can be the main user but itself: its DDL is run by a function of its (`recovery.run_ddl`).
        """
        session, seconds = self._session, self._seconds
        wanted = {name: value for name, value in ddl.settings.items() if name in _SETTINGS}
        listed = ", ".join(f"current_setting({_literal(name)})" for name in wanted)
        ((me, role, *before),) = session.run(
            f"SELECT current_user::text, current_setting('role'){', ' if wanted else ''}{listed}",
            seconds,
        )
        for name, value in wanted.items():
            session.run("SELECT set_config(:name, :value, true)", seconds, name=name, value=value)
        by_function = ddl.role != me and bool(session.run(_ONLY_BY_FUNCTION, seconds, role=ddl.role))
        if by_function:
            act(lambda text: session.run("SELECT recovery.run_ddl(:text)", seconds, text=text))
        else:
            if ddl.role != me:
                session.run(f"SET LOCAL ROLE {_quoted(ddl.role)}", seconds)
            act(lambda text: session.run(text, seconds))
        if ddl.role != me and not by_function:
            session.run("SELECT set_config('role', :role, true)", seconds, role=role)
        for name, value in zip(wanted, before, strict=True):
            session.run("SELECT set_config(:name, :value, true)", seconds, name=name, value=value)


def _in_a_transaction(tag: str, statement: Statement) -> str:
    """The statement's text, without what only works outside of a transaction."""
    if tag in ("CREATE INDEX", "DROP INDEX"):
        return statement.without([token for token in statement.tokens[:4] if token.word == "CONCURRENTLY"])
    if tag == "ALTER TABLE" and "DETACH" in statement.words and statement.words[-1] == "CONCURRENTLY":
        return statement.without(statement.tokens[-1:])
    return statement.text


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return (
        "'" + text.replace("'", "''") + "'"
        if "\\" not in text
        else "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    )
