"""DDL from a real primary's log, replayed onto a copy of the database as it was before: the schema becomes the same."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cloud.cluster import ADMINISTRATOR
from recovery.connection import Credentials, Database, Refused, Session, verify_full
from recovery.preparation import prepare
from recovery.transaction_log import ddl, segment, source
from recovery.transaction_log.ddl import DdlRefused, Replay
from tests.unit.recovery.conftest import MASTER, PASSWORD, PRIMARY, Pair
from tests.unit.recovery.test_transaction_log import drain, ready

COPY = "copied"


def emitted(message: bytes) -> tuple[str, bytes] | None:
    """Prefix and content of a logical message of pgoutput."""
    if message[:1] != b"M":
        return None
    if message[1] != 1:
        return None  # it stands outside of every transaction
    prefix, _, rest = message[10:].partition(b"\0")
    (length,) = struct.unpack_from("!I", rest)
    assert len(rest) == 4 + length
    return prefix.decode(), rest[4:]


class Primary:
    """The primary, a copy of its database, and the log of what has happened since the copy was made."""

    def __init__(self, members: Pair, folder: Path) -> None:
        self.members = members
        self.folder = folder
        self.session = members.open()
        # Another one, for the archive sets its session up for itself
        self.keeper = members.open()

    def copy(self) -> None:
        """Make the copy, and begin the log."""
        self.session.run("SELECT 1", 5)
        self.session.close()
        self.keeper.close()
        with self._admin() as admin:
            admin.run(f"DROP DATABASE IF EXISTS {COPY}", 20)
            admin.run(f"CREATE DATABASE {COPY} TEMPLATE citizens STRATEGY file_copy", 20)
        self.session, self.keeper = self.members.open(), self.members.open()
        self.archive = ready(self.keeper, self.folder)

    def _admin(self) -> Session:
        database = Database("postgres", verify_full(str(self.members.bundle)))
        return Session.open(self.members.primary, database, Credentials(MASTER, PASSWORD), 5.0, "test")

    def open_copy(self) -> Session:
        database = Database(COPY, verify_full(str(self.members.bundle)))
        return Session.open(self.members.primary, database, Credentials(MASTER, PASSWORD), 5.0, "test")

    def run(self, *texts: str) -> None:
        for text in texts:
            self.session.run(text, 20)

    def messages(self) -> list[bytes]:
        """All messages of the log so far."""
        drain(self.archive)
        return [
            message for path in segment.segments(self.folder) for message in segment.messages(segment.read(path))
        ]  # fmt: skip

    def kept(self) -> list[bytes]:
        """The content of every DDL message so far."""
        found = [said for message in self.messages() if (said := emitted(message)) is not None]
        return [content for prefix, content in found if prefix == ddl.PREFIX]

    def replay(self) -> list[str]:
        """Replay the log's DDL onto the copy, as roll forward's session would."""
        with self.open_copy() as session:
            session.run("SET session_replication_role = replica", 5)
            replay = Replay(session)
            for content in self.kept():
                with session.transaction(20):
                    replay.apply(content)
            assert session.run("SELECT current_user, current_setting('role')", 5) == [[MASTER, "none"]]
        return [str(ddl.read(content)) for content in self.kept()]

    def dump(self, database: str) -> str:
        """The schema as pg_dump writes it, without what differs between any two runs."""
        fleet = self.members.fleet
        cluster = fleet._find(PRIMARY)._pair.main
        assert cluster is not None
        number = cluster.socket.suffix.removeprefix(".")
        address = ("-h", str(cluster.socket.parent), "-p", number, "-U", ADMINISTRATOR)
        dumped = fleet._host.run("pg_dump", "-s", "--restrict-key=fixed", *address, database)
        return re.sub(r"(?m)^(--.*|)\n", "", dumped)

    def same(self) -> list[str]:
        """Replay, and compare; what was replayed."""
        replayed = self.replay()
        assert self.dump(COPY) == self.dump("citizens")
        return replayed


@pytest.fixture
def primary(members: Pair, tmp_path: Path) -> Iterator[Primary]:
    made = Primary(members, tmp_path)
    yield made
    made.session.close()
    made.keeper.close()
    with made._admin() as admin:
        admin.run(f"DROP DATABASE IF EXISTS {COPY}", 20)
        for role in ("clerk", "registrar"):
            with contextlib.suppress(Refused):
                with members.open() as session:
                    session.run(f"DROP OWNED BY {role} CASCADE", 5)
                admin.run(f"DROP ROLE IF EXISTS {role}", 5)


DAYS_WORK = [
    "CREATE TABLE citizens (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL)",
    "CREATE TYPE mood AS ENUM ('calm', 'glad'); ALTER TYPE mood ADD VALUE 'tired' BEFORE 'glad'",
    "CREATE DOMAIN postcode AS text CHECK (VALUE ~ '^[0-9]{3}-[0-9]{4}$')",
    "CREATE TYPE address AS (postcode postcode, city text)",
    'CREATE TABLE "市民" ("氏名" text COLLATE "C", "Of ""quotes""" mood DEFAULT \'calm\', lives address)',
    "COMMENT ON TABLE \"市民\" IS '住民の''台帳'; COMMENT ON COLUMN \"市民\".\"氏名\" IS $$;--$$",
    "CREATE SEQUENCE numbers START 100; CREATE TABLE events (at date, number int) PARTITION BY RANGE (at)",
    "CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "CREATE TABLE old (LIKE events INCLUDING ALL); ALTER TABLE events ATTACH PARTITION old DEFAULT",
    "ALTER TABLE events DETACH PARTITION old; DROP TABLE old",
    "CREATE INDEX ON citizens (lower(name)); CREATE UNIQUE INDEX by_name ON citizens (name) WHERE name <> ''",
    "CREATE INDEX CONCURRENTLY by_number ON citizens (number DESC)",
    "CREATE VIEW names AS SELECT name FROM citizens; CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM names",
    "CREATE SCHEMA registry CREATE TABLE inside (n int) CREATE VIEW seen AS SELECT n FROM inside",
    "SET search_path = registry, public",
    "CREATE TABLE by_path (n serial); ALTER TABLE inside ADD PRIMARY KEY (n); ALTER TABLE by_path RENAME n TO number",
    "RESET search_path",
    "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN n > 0 THEN 2 * n END; END; "
    "CREATE PROCEDURE nothing() LANGUAGE plpgsql AS 'BEGIN NULL; END'",
    "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM 1; RETURN NEW; END $f$; "
    "CREATE TRIGGER stamping BEFORE INSERT ON citizens FOR EACH ROW EXECUTE FUNCTION stamp()",
    "ALTER TABLE registry.by_path ADD UNIQUE (number)",
    "ALTER TABLE registry.inside ADD FOREIGN KEY (n) REFERENCES registry.by_path (number) NOT VALID",
    "CREATE RULE quiet AS ON DELETE TO registry.by_path DO INSTEAD NOTHING",
    "CREATE POLICY own ON citizens USING (name = current_user); ALTER TABLE citizens ENABLE ROW LEVEL SECURITY",
    "CREATE STATISTICS together ON number, name FROM citizens",
    "CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int)",
    "GRANT SELECT, UPDATE (name) ON citizens TO PUBLIC; REVOKE EXECUTE ON FUNCTION twice FROM PUBLIC",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA registry GRANT SELECT ON TABLES TO PUBLIC",
    "CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore SCHEMA registry; DROP EXTENSION pg_trgm",
    "CREATE UNLOGGED TABLE quick (n int); ALTER TABLE quick SET LOGGED; ALTER TABLE quick SET (fillfactor = 70)",
    "CREATE TEMP TABLE passing (n int); ALTER TABLE passing ADD m int; CREATE INDEX ON passing (n); DROP TABLE passing",
    "CREATE TEMP VIEW glimpse AS SELECT 1; CREATE TEMP SEQUENCE counting; DROP VIEW glimpse",
    "DROP VIEW names CASCADE; DROP TABLE IF EXISTS never_there", "DROP INDEX CONCURRENTLY by_number",
    "CREATE TABLE IF NOT EXISTS citizens (other int); ALTER SEQUENCE numbers INCREMENT 5; REINDEX TABLE citizens",
    "CREATE PUBLICATION theirs FOR TABLE citizens; ALTER TABLE citizens REPLICA IDENTITY FULL",
    "BEGIN; CREATE TABLE undone (n int); ROLLBACK; BEGIN; CREATE TABLE done (n int); COMMIT; SELECT 1",
]  # fmt: skip


def test_a_days_ddl_gives_the_same_schema(primary: Primary) -> None:
    primary.copy()
    primary.run(*DAYS_WORK[:-1])
    replayed = primary.same()
    assert not [done for done in replayed if "temp" in done.lower() or "recovery" in done or "REINDEX" in done]


def test_statements_of_one_string_are_replayed_once_each_and_in_their_places(primary: Primary) -> None:
    primary.copy()
    primary.run(
        "CREATE TABLE a (n int); /* CREATE TABLE no (n int); */ INSERT INTO a VALUES (1); CREATE TEMP TABLE b (n int); "
        "CREATE TABLE \"c;\" (n int DEFAULT 1); INSERT INTO a VALUES (2); CREATE TABLE d AS SELECT 1 AS x; "
        "ALTER TABLE a ADD t text DEFAULT $$;$$; ALTER TABLE a ADD u text; DROP TABLE \"c;\"",
        "BEGIN; CREATE TABLE e (n int); COMMIT; CREATE TABLE f (n int); CREATE TABLE g (n int)",
    )  # fmt: skip
    order = []
    for message in primary.messages():
        said = emitted(message)
        if message[:1] == b"I" or said is not None:
            order.append(str(ddl.read(said[1])) if said is not None else "row")
    made = [
        "CREATE TABLE public.a",
        "ALTER TABLE public.a",
        "row",
        'CREATE TABLE public."c;"',
        'ALTER TABLE public."c;"',
    ]
    made += ["row", "row", "CREATE TABLE AS public.d", "ALTER TABLE public.d", *2 * ["ALTER TABLE public.a"]]
    assert order[: len(made)] == made
    primary.same()


@pytest.mark.parametrize("undone", ["RELEASE s", "SELECT 1"])
def test_a_row_right_behind_ddl_of_a_subtransaction_stands_behind_it(primary: Primary, undone: str) -> None:
    primary.copy()
    for number in range(20):
        primary.run(
            f"BEGIN; SAVEPOINT s; CREATE TABLE t{number} (n int PRIMARY KEY); {undone}; "
            f"INSERT INTO t{number} VALUES (1); "
            f"SAVEPOINT t; ALTER TABLE t{number} ADD m int; INSERT INTO t{number} VALUES (2); COMMIT"
        )
    kinds = [message[:1] for message in primary.messages() if message[:1] in (b"I", b"M")]
    assert kinds == [b"M", b"I"] * 40


def test_what_routines_and_blocks_do_is_replayed(primary: Primary) -> None:
    primary.run(
        "CREATE FUNCTION make(named text) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN "
        "EXECUTE format('CREATE TABLE %I (n int)', named); EXECUTE format('CREATE INDEX ON %I (n); "
        "COMMENT ON TABLE %I IS ''\"\nof''; ALTER TABLE %I ADD m int', named, named, named); "
        "CREATE TABLE IF NOT EXISTS always (n int); END $f$",
        "CREATE PROCEDURE make_two() LANGUAGE plpgsql AS $f$ BEGIN CREATE TABLE one (n int); COMMIT; "
        "CREATE TABLE two (n int); INSERT INTO two VALUES (1); END $f$",
    )
    primary.copy()
    primary.run(
        "SELECT make('x'), make('市民'), make('of \"\"')",
        "CALL make_two()",
        "DO $$ BEGIN FOR i IN 1..3 LOOP "
        "EXECUTE 'CREATE TABLE t' || i || ' (n int); ALTER TABLE t' || i || ' ADD m int'; "
        "BEGIN CREATE TABLE undone (n int); PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END; "
        "END LOOP; END $$",
    )  # fmt: skip
    assert any("t3" in done for done in primary.same())


def test_tables_made_of_queries_are_made_empty_and_before_their_rows(primary: Primary) -> None:
    primary.run('CREATE TABLE citizens (name text COLLATE "C", born timestamptz(3), cents numeric(9, 2)[])')
    primary.run("INSERT INTO citizens VALUES ('市', now(), '{1.5}')")
    primary.copy()
    primary.run(
        "CREATE TABLE picked WITH (fillfactor = 70) AS SELECT *, clock_timestamp() AS at FROM citizens",
        "SELECT name AS \"Name\", random() AS r INTO into_it FROM citizens",
        "DO $$ DECLARE who text := '市'; BEGIN "
        "CREATE TABLE by_variable AS SELECT * FROM citizens WHERE name = who; END $$",
        "CREATE UNLOGGED TABLE quick AS SELECT 1 AS n; CREATE TABLE IF NOT EXISTS picked AS SELECT 1; "
        "CREATE TEMP TABLE passing AS SELECT * FROM citizens; CREATE TABLE none AS SELECT 1 AS n WITH NO DATA",
    )  # fmt: skip
    assert [ddl.comes_first(content) for content in primary.kept()].count(True) == 5
    primary.same()
    with primary.open_copy() as session:
        assert session.run("SELECT count(*) FROM picked", 5) == [[0]]


def test_a_table_made_for_its_rows_becomes_what_the_query_made(primary: Primary) -> None:
    primary.run('CREATE TABLE citizens (name text COLLATE "C", cents numeric(9, 2)[])')
    primary.copy()
    primary.run("CREATE TABLE picked AS SELECT * FROM citizens")
    with primary.open_copy() as session:
        ddl.make_table(session, "public", "picked", [("name", "text"), ("cents", "numeric(9,2)[]")], 5)
    primary.same()


def test_tables_that_are_written_anew_get_the_same_rows(primary: Primary) -> None:
    primary.run(
        "CREATE TABLE citizens (number int PRIMARY KEY, born text)",
        "INSERT INTO citizens SELECT n, '2026-01-0' || n FROM generate_series(1, 5) AS n",
        "CREATE TABLE events (at date, number int) PARTITION BY RANGE (at)",
        "CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "INSERT INTO events VALUES ('2026-05-05', 1)",
    )
    primary.copy()
    primary.run(
        "ALTER TABLE citizens ADD seen timestamptz DEFAULT now(), ADD rank int DEFAULT 7",
        "ALTER TABLE citizens ADD note text DEFAULT E'it''s \\\\ 市'",
        "ALTER TABLE events ADD at_last timestamptz DEFAULT now()",
        "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'",
        "ALTER TABLE citizens ALTER born TYPE timestamptz USING (born || ' 08:00')::timestamptz",
        "ALTER TABLE citizens ADD twice int GENERATED ALWAYS AS (rank * 2) STORED",
        "ALTER TABLE citizens ALTER number TYPE bigint",
        "RESET ALL",
    )
    primary.same()
    with primary.open_copy() as copy:
        for table in ("citizens", "events"):
            query = f"SELECT array_agg({table}::text ORDER BY 1) FROM {table}"
            assert copy.run(query, 5) == primary.session.run(query, 5)


UNFAITHFUL = {
    "ALTER TABLE t0 ADD id bigserial": "value of its own in id",
    "ALTER TABLE t1 ADD token uuid DEFAULT gen_random_uuid()": "value of its own in token",
    "ALTER TABLE t2 ADD id bigint GENERATED ALWAYS AS IDENTITY": "value of its own in id",
    "ALTER TABLE t3 ALTER name TYPE text USING name || random()": "by random",
    "ALTER TABLE t4 ALTER name TYPE text USING name || current_date": "by CURRENT_DATE",
    "BEGIN; SAVEPOINT s; CREATE TABLE b (n int); ROLLBACK TO s; CREATE TABLE c (n int); COMMIT": "told",
    "SELECT by_sql()": "whose statements are not known",
}


def test_what_cannot_be_replayed_faithfully_is_refused_in_one_sentence(primary: Primary) -> None:
    for number in range(5):
        primary.run(
            f"CREATE TABLE t{number} (number int PRIMARY KEY, name text)",
            f"INSERT INTO t{number} VALUES (1, 'a'), (2, 'b')",
        )
    primary.run("CREATE FUNCTION by_sql() RETURNS void LANGUAGE sql AS 'CREATE TABLE made (n int PRIMARY KEY)'")
    primary.copy()
    seen = 0
    for statement, reason in UNFAITHFUL.items():
        primary.run(statement)
        contents = primary.kept()
        with primary.open_copy() as session:
            replay = Replay(session)
            with pytest.raises(DdlRefused, match=reason):  # noqa: PT012 - whichever of them it is
                for content in contents[seen:]:
                    replay.apply(content)
        seen = len(contents)


def test_ddl_belongs_to_who_ran_it(primary: Primary, members: Pair) -> None:
    primary.run(
        "CREATE ROLE clerk LOGIN PASSWORD 'Clerk-Clerk-1'; CREATE ROLE registrar",
        "GRANT USAGE, CREATE ON SCHEMA public TO clerk, registrar; GRANT registrar TO clerk",
        "CREATE SCHEMA clerk AUTHORIZATION clerk",
    )
    primary.copy()
    with members.open(user="clerk", password="Clerk-Clerk-1") as clerk:
        clerk.run("CREATE TABLE of_clerk (n int); CREATE TABLE picked AS SELECT 1 AS n; CREATE TEMP TABLE t (n int)", 5)
        clerk.run("SET ROLE registrar; CREATE TABLE public.of_registrar (n int)", 5)
        with pytest.raises(Refused, match="permission denied"):
            clerk.run("RESET ROLE; SELECT key FROM recovery.ddl_key", 5)
    primary.same()
    assert "OWNER TO registrar" in primary.dump(COPY)


def test_a_role_that_is_gone_is_named(primary: Primary) -> None:
    primary.run("CREATE ROLE clerk")
    primary.copy()
    primary.run("CREATE TABLE citizens (n int); ALTER TABLE citizens OWNER TO clerk")
    primary.run("DROP TABLE citizens; DROP ROLE clerk")
    with pytest.raises(DdlRefused, match='role "clerk" does not exist'):
        primary.replay()


def test_a_message_that_somebody_else_wrote_is_refused(primary: Primary) -> None:
    primary.copy()
    primary.run("CREATE TABLE citizens (n int)")
    (genuine,) = [content for content in primary.kept() if ddl.read(content).tag == "CREATE TABLE"]
    with primary.open_copy() as session:
        for forged in (genuine.replace(b"citizens", b"criminal"), b"0" * 64 + genuine[64:]):
            with pytest.raises(DdlRefused, match="not sealed"):
                Replay(session).apply(forged)
        for unreadable in (b"", b"0" * 64 + b"{", b"0" * 64 + b"[]", b"0" * 64 + b"{}", b"\xff" * 100):
            with pytest.raises(DdlRefused, match="not DDL that this program can read"):
                Replay(session).apply(unreadable)
        session.run("DELETE FROM recovery.ddl_key", 5)
        with pytest.raises(DdlRefused, match="has no key"):
            Replay(session).apply(genuine)


def test_ddl_that_cannot_be_kept_is_not_hindered_and_stops_the_replay(primary: Primary) -> None:
    primary.copy()
    primary.run("SET recovery.ddl_dropped = 'not json'; CREATE TABLE citizens (n int); RESET recovery.ddl_dropped")
    assert primary.session.run("SELECT count(*) FROM citizens", 5) == [[0]]
    with pytest.raises(DdlRefused, match="could not be kept by the primary: invalid input syntax"):
        primary.replay()


def test_the_replay_is_in_the_log_of_the_next_epoch_too(primary: Primary) -> None:
    primary.copy()
    primary.run("CREATE TABLE a (n int); CREATE TABLE b (n int)")
    with primary.open_copy() as session:
        session.run("SELECT pg_create_logical_replication_slot('next', 'pgoutput')", 5)
        primary.replay()
        rows = session.run(
            "SELECT data FROM pg_logical_slot_get_binary_changes('next', NULL, NULL, 'proto_version', '1', "
            "'publication_names', 'citizens_log', 'messages', 'true')", 5,
        )  # fmt: skip
        session.run("SELECT pg_drop_replication_slot('next')", 5)
    again = [str(ddl.read(said[1])) for (message,) in rows if (said := emitted(message)) is not None]
    assert [done for done in again if done.startswith("CREATE")] == ["CREATE TABLE public.a", "CREATE TABLE public.b"]


def test_what_the_machinery_does_is_not_kept(primary: Primary) -> None:
    primary.copy()
    prepare(primary.session)
    assert primary.kept() == []


def test_capture_is_put_right_when_somebody_changed_it(primary: Primary) -> None:
    session = primary.session
    for harm in (
        "ALTER EVENT TRIGGER recovery_ddl_2_keep DISABLE",
        "DROP EVENT TRIGGER recovery_ddl_dropped",
        "DROP FUNCTION recovery.note_ddl_caller CASCADE",
        "CREATE OR REPLACE FUNCTION recovery.keep_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "DROP TABLE recovery.ddl_key",
    ):
        session.run(harm, 5)
        assert not ddl.installed(session, 5)
        source.ensure_publication(session, 5)
        assert ddl.installed(session, 5)
    session.run("DELETE FROM recovery.ddl_key", 5)
    source.ensure_publication(session, 5)
    assert session.run("SELECT count(*) FROM recovery.ddl_key", 5) == [[1]]
    ddl.remove(session, 5)
    assert session.run("SELECT evtname::text FROM pg_event_trigger", 5) == [["recovery_give_identity"]]
