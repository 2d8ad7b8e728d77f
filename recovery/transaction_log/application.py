"""Do to a database what is left of a batch of changes: few statements over many rows.

Constraints between rows hold at the batch's end, not within it. So rows that might meet another's unique value on the
way (keys that changed, tables with further unique constraints) are all taken out before any is put back; the others are
updated where they are. Foreign keys and triggers are not consulted (`session_replication_role`): what they did on the
primary is in the log.
"""

# ruff: noqa: S608 - names are quoted, and values come by COPY
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from recovery.connection import Refused, Session
from recovery.transaction_log import ddl
from recovery.transaction_log.netting import Net, Partial, Rows
from recovery.transaction_log.rows import TEXT_FORM, Relation, quote

PREPARE = f"{TEXT_FORM}; SET session_replication_role = replica; SET synchronous_commit = off; SET jit = off"
"""The last commit of a roll forward is waited for; an earlier one that is lost takes its progress with it."""

_DESCRIBE = """
SELECT class.relkind::text,
       (SELECT count(*) FROM pg_index WHERE indrelid = class.oid AND (indisunique OR indisexclusion)),
       (SELECT coalesce(array_agg(attname::text), '{}') FROM pg_attribute
        WHERE attrelid = class.oid AND attidentity = 'a' AND NOT attisdropped),
       (SELECT coalesce(array_agg(tgname::text), '{}') FROM pg_trigger
        WHERE tgrelid = class.oid AND tgenabled IN ('A', 'R') AND NOT tgisinternal)
FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
WHERE space.nspname = :schema AND class.relname = :name"""


class Diverged(Exception):
    """The database does not hold what the log says it must: it stands elsewhere, or somebody else wrote to it."""


@dataclass(frozen=True)
class Table:
    """A table of the target: `only` is ONLY where rows stand in the table itself; `in_place` when its rows may be
    updated where they are; `stage` begins the names of its temporary tables.
    """

    only: str
    in_place: bool
    stage: str
    made: set[str] = field(default_factory=set)


class Application:
    """Applies batches to one database, in the transaction that the caller began."""

    def __init__(self, session: Session, seconds: float) -> None:
        self._session = session
        self._seconds = seconds
        self._tables: dict[Relation, Table] = {}
        self._stages = 0
        self._made: set[str] = set()

    def prepare(self) -> None:
        """The session's settings; Refused for a user who may not set them."""
        self._session.run(PREPARE, self._seconds)

    def forget(self) -> None:
        """Tables may have changed: look at them anew."""
        for table in self._tables.values():
            for name in table.made:
                self._session.run(f"DROP TABLE IF EXISTS pg_temp.{name}", self._seconds)
        self._tables.clear()

    def described(self) -> None:
        """The DDL has come that tables were made ahead of."""
        self._made.clear()

    def require_described(self) -> None:
        """Diverged when rows came for a table that nothing in their transaction made."""
        if self._made:
            raise Diverged(f"The log changes {', '.join(sorted(self._made))}, which nothing made in the database.")

    def apply(self, nets: Sequence[Net], ahead: bool = False) -> None:
        """Do it all. Diverged when a row is missing or one is there that must not be.

        `ahead`: the DDL that makes a table may follow its rows within the transaction.
        """
        for net in nets if ahead else ():
            self._make(net.relation)
        self._truncate([net for net in nets if net.truncated])
        for net in nets:
            try:
                self._apply(net)
            except Refused as refused:
                if refused.sqlstate[:2] in ("23", "22") or refused.sqlstate in ("42P01", "42703"):
                    raise Diverged(
                        f"{net.relation.quoted} does not take the log's changes: {refused}. The database was changed "
                        "by somebody else, or does not stand where it says; restore it anew."
                    ) from refused
                raise

    def _make(self, relation: Relation) -> None:
        if relation in self._tables or self._session.run(
            _DESCRIBE, self._seconds, schema=relation.schema, name=relation.name
        ):
            return
        kinds = self._session.run(
            "SELECT format_type(CAST(kind AS oid), CAST(modifier AS int)) "
            "FROM unnest(CAST(:kinds AS text[]), CAST(:modifiers AS text[])) AS described (kind, modifier)",
            self._seconds,
            kinds=[str(column.kind) for column in relation.columns],
            modifiers=[str(column.modifier) for column in relation.columns],
        )
        columns = [(column.name, str(kind)) for column, (kind,) in zip(relation.columns, kinds, strict=True)]
        ddl.make_table(self._session, relation.schema, relation.name, columns, self._seconds)
        self._made.add(relation.quoted)

    def _table(self, relation: Relation) -> Table:
        known = self._tables.get(relation)
        if known is not None:
            return known
        found = self._session.run(_DESCRIBE, self._seconds, schema=relation.schema, name=relation.name)
        if not found:
            raise Diverged(
                f"The log changes {relation.quoted}, which is not in the database, and nothing in the log made it: the "
                "database does not stand where it says, or DDL was not kept then; restore to a later moment."
            )
        ((kind, unique, always, triggers),) = found
        if triggers:
            raise Diverged(
                f"{relation.quoted} has triggers that fire on replicas ({', '.join(triggers)}): what they did is in "
                "the log already; run ALTER TABLE … DISABLE TRIGGER for each, roll forward, and enable them again."
            )
        keys = {relation.columns[number].name for number in relation.keys}
        self._stages += 1
        table = Table(
            "" if kind == "p" else "ONLY ", unique <= 1 and not set(always) - keys, f"roll_forward_{self._stages}"
        )
        self._tables[relation] = table
        return table

    def _truncate(self, nets: Sequence[Net]) -> None:
        # In one statement: tables that refer to one another can only be emptied together.
        for chosen, option in (([net for net in nets if net.restart], " RESTART IDENTITY"), (nets, "")):
            if chosen:
                names = [f"{self._table(net.relation).only}{net.relation.quoted}" for net in chosen]
                self._run(f"TRUNCATE {', '.join(names)}{option}")

    def _apply(self, net: Net) -> None:
        relation, table = net.relation, self._table(net.relation)
        columns = [quote(column.name) for column in relation.columns]
        if net.changes_rows and relation.whole:
            self._delete_whole(net, table, columns)
        elif net.changes_rows:
            self._change(net, table, columns)
        if net.inserted.count:
            self._copy(f"{relation.quoted} ({', '.join(columns)})", net.inserted)

    def _change(self, net: Net, table: Table, columns: list[str]) -> None:
        relation = net.relation
        keys = [columns[number] for number in relation.keys]
        target = f"{table.only}{relation.quoted} AS target"
        gone = self._stage(table, "gone", relation, [(key, key) for key in keys], net.gone)
        changed = self._stage(table, "changed", relation, [(column, column) for column in columns], net.changed)
        partial = self._stage(
            table,
            "partial",
            relation,
            [(column, column) for column in columns] + [(key, f"was_{n}") for n, key in enumerate(keys)],
            net.partial.rows,
            ", 0 AS pattern",
        )
        same = " AND ".join(f"target.{key} = stage.{key}" for key in keys)
        was = " AND ".join(f"target.{key} = stage.was_{n}" for n, key in enumerate(keys))
        in_place = table.in_place and not net.partial.moved
        if net.gone.count:
            self._exactly(net.gone.count, relation, f"DELETE FROM {target} USING {gone} AS stage WHERE {same}")
        values = [column for column in columns if column not in keys]
        if in_place:
            if net.changed.count and values:
                settings = ", ".join(f"{column} = stage.{column}" for column in values)
                self._exactly(
                    net.changed.count, relation, f"UPDATE {target} SET {settings} FROM {changed} AS stage WHERE {same}"
                )
            self._update_partial(net.partial, relation, target, partial, columns, values, same)
        else:
            self._replace(net, target, columns, changed, partial, same, was)
        self._empty(table)

    def _update_partial(
        self,
        rest: Partial,
        relation: Relation,
        target: str,
        partial: str,
        columns: list[str],
        values: list[str],
        same: str,
    ) -> None:
        for number, kept in enumerate(rest.kept if rest.rows.count else ()):
            names = [name for name in values if columns.index(name) not in kept]
            if names:
                settings = ", ".join(f"{name} = stage.{name}" for name in names)
                self._run(
                    f"UPDATE {target} SET {settings} FROM {partial} AS stage WHERE {same} AND stage.pattern = {number}"
                )
        if rest.rows.count:
            found = self._run(f"SELECT FROM {target}, {partial} AS stage WHERE {same}")
            self._expect(rest.rows.count, found, relation)

    def _replace(
        self, net: Net, target: str, columns: list[str], changed: str, partial: str, same: str, was: str
    ) -> None:
        relation = net.relation
        listed = ", ".join(columns)
        if net.partial.rows.count:
            for number, kept in enumerate(net.partial.kept):
                if kept:
                    settings = ", ".join(f"{columns[n]} = target.{columns[n]}" for n in sorted(kept))
                    self._run(
                        f"UPDATE {partial} AS stage SET {settings} FROM {target} "
                        f"WHERE {was} AND stage.pattern = {number}"
                    )
            self._exactly(
                net.partial.rows.count, relation, f"DELETE FROM {target} USING {partial} AS stage WHERE {was}"
            )
        if net.changed.count:
            self._exactly(net.changed.count, relation, f"DELETE FROM {target} USING {changed} AS stage WHERE {same}")
        for stage, count in ((changed, net.changed.count), (partial, net.partial.rows.count)):
            if count:
                self._run(
                    f"INSERT INTO {relation.quoted} ({listed}) OVERRIDING SYSTEM VALUE SELECT {listed} FROM {stage}"
                )

    def _delete_whole(self, net: Net, table: Table, columns: list[str]) -> None:
        """Of equal rows, so many as are gone; rows are compared by their text, for not every type knows equality."""
        if not net.gone.count:
            return
        relation = net.relation
        stage = self._stage(
            table, "gone", relation, [(column, column) for column in columns], net.gone, ", 0::bigint AS copies"
        )

        def text(of: str) -> str:
            return f"""(ROW({", ".join(f"{of}.{column}::text" for column in columns)})::text COLLATE "C")"""

        ((wanted,),) = self._session.run(f"SELECT sum(copies)::bigint FROM {stage}", self._seconds)
        self._exactly(
            int(wanted),
            relation,
            f"WITH doomed AS MATERIALIZED (SELECT place, spot FROM (SELECT target.tableoid AS place, "
            f"target.ctid AS spot, stage.copies, row_number() OVER (PARTITION BY {text('target')}) AS number "
            f"FROM {table.only}{relation.quoted} AS target JOIN {stage} AS stage "
            f"ON {text('target')} = {text('stage')}) AS equal WHERE number <= copies) "
            f"DELETE FROM {table.only}{relation.quoted} AS target USING doomed "
            f"WHERE target.tableoid = doomed.place AND target.ctid = doomed.spot",
        )
        self._empty(table)

    def _stage(
        self,
        table: Table,
        kind: str,
        relation: Relation,
        columns: Sequence[tuple[str, str]],
        rows: Rows,
        more: str = "",
    ) -> str:
        """A temporary table with these rows: (column of the table, name here) each, and further ones; its name."""
        name = f"{table.stage}_{kind}"
        if not rows.count:
            return name
        if name not in table.made:
            selected = ", ".join(f"{column} AS {here}" for column, here in columns)
            self._run(f"CREATE TEMPORARY TABLE {name} AS SELECT {selected}{more} FROM {relation.quoted} WITH NO DATA")
            table.made.add(name)
        self._copy(f"pg_temp.{name}", rows)
        return f"pg_temp.{name}"

    def _empty(self, table: Table) -> None:
        if table.made:
            self._run(f"TRUNCATE {', '.join(f'pg_temp.{name}' for name in sorted(table.made))}")

    def _copy(self, into: str, rows: Rows) -> None:
        self._session.copy_in(f"COPY {into} FROM STDIN", self._seconds, rows.blocks)

    def _run(self, sql: str) -> int:
        return self._session.count(sql, self._seconds)

    def _exactly(self, wanted: int, relation: Relation, sql: str) -> None:
        self._expect(wanted, self._run(sql), relation)

    def _expect(self, wanted: int, found: int, relation: Relation) -> None:
        if found != wanted:
            raise Diverged(
                f"{relation.quoted} has {found} of {wanted} rows that the log changes; the database was changed by "
                "somebody else, or does not stand where it says: restore it anew."
            )
