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
from recovery.transaction_log import ddl, segment
from recovery.transaction_log.ddl import Replay
from tests.unit.recovery.conftest import MASTER, PASSWORD, PRIMARY, Pair
from tests.unit.recovery.test_transaction_log import drain, ready

COPY = "copied"


def emitted(message: bytes) -> tuple[str, bytes] | None:
    """Prefix and content of a logical message of pgoutput."""
    if message[:1] != b"M":
        return None
    assert message[1] == 1, "it is not transactional"
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

    def copy(self) -> None:
        """Make the copy, and begin the log."""
        self.session.run("SELECT 1", 5)
        self.session.close()
        with self._admin() as admin:
            admin.run(f"DROP DATABASE IF EXISTS {COPY}", 20)
            admin.run(f"CREATE DATABASE {COPY} TEMPLATE citizens STRATEGY file_copy", 20)
        self.session = self.members.open()
        self.archive = ready(self.session, self.folder)

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
