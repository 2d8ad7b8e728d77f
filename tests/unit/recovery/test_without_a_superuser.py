"""The whole of the log under a main user as RDS gives it: CREATEDB, CREATEROLE, rds_superuser, and no superuser.

Two statements are PostgreSQL's superusers' alone, and RDS lets its main user: CREATE EVENT TRIGGER and CREATE
PUBLICATION … FOR ALL TABLES. Each of them, and nothing else, is run here with the attribute. Two things that RDS gives
by membership PostgreSQL asks other rights for: REPLICATION for rds_replication, SET on session_replication_role for
rds_superuser.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pg8000.native import Connection

from local_cloud.cluster import Cluster, make_template
from local_cloud.postgres_host import PostgresHost
from recovery.connection import Credentials, Session, _Watchdog
from recovery.members import Endpoint
from recovery.preparation import ROLES, prepare
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.batches import Until
from recovery.transaction_log.digest import digests
from recovery.transaction_log.path import Log
from recovery.transaction_log.position import Position
from recovery.transaction_log.roll_forward import roll_forward
from recovery.transaction_log.statements import Statement, split
from recovery.transaction_log.verification import OK, verify

MAIN_USER = "main_user"
PASSWORD = "Correct-Horse-18"
SETTINGS = {"wal_level": "logical", "track_commit_timestamp": "on", "synchronous_commit": "off"}


def is_let_by_rds(statement: Statement) -> bool:
    """What PostgreSQL keeps for superusers and RDS gives to rds_superuser."""
    words = statement.words
    return words[:3] == ["CREATE", "EVENT", "TRIGGER"] or (
        words[:2] == ["CREATE", "PUBLICATION"] and words[3:6] == ["FOR", "ALL", "TABLES"]
    )


@dataclass
class Server:
    """A server whose one superuser is the provider's."""

    cluster: Cluster
    let: list[str] = field(default_factory=list)

    def open(self, user: str = MAIN_USER, database: str = "citizens") -> AsOnRds:
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(str(self.cluster.socket))
        connection = Connection(user, password=PASSWORD, database=database, sock=raw, ssl_context=False)
        credentials = Credentials(user, PASSWORD)
        session = AsOnRds(connection, _Watchdog(raw.dup()), Endpoint(str(self.cluster.socket), 0), credentials)
        session.server = self
        return session

    def superuser(self, user: str, *, yes: bool) -> None:
        self.cluster.execute("ALTER ROLE main_user SUPERUSER" if yes else "ALTER ROLE main_user NOSUPERUSER")
        assert user == MAIN_USER, f"{user} runs what only the main user may"


class AsOnRds(Session):
    """A session that may do what RDS lets it, statement by statement."""

    server: Server

    def run(self, sql: str, seconds: float, **parameters: object) -> list[list[Any]]:
        statements = [] if parameters else split(sql)
        if not any(is_let_by_rds(statement) for statement in statements):
            return super().run(sql, seconds, **parameters)
        for statement in statements:
            let = is_let_by_rds(statement)
            if let:
                self.server.let.append(" ".join(statement.words[:4]))
                self.server.superuser(self.credentials.username, yes=True)
                # In a transaction a server notices others' changes of roles when it takes a lock that it has not.
                super().run("SAVEPOINT unseen; SELECT FROM pg_catalog.pg_roles; ROLLBACK TO unseen", seconds)
            try:
                super().run(statement.text, seconds)
            finally:
                if let:
                    self.server.superuser(self.credentials.username, yes=False)
        return []


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="citizens-rds-"))
    folder.chmod(0o755)
    host = PostgresHost(folder / "state")
    cluster = Cluster(host, "rds", lambda _: None)
    try:
        cluster.create(make_template(host))
        cluster.configure(SETTINGS)
        cluster.start()
        # As the RDS user guide gives it ("Understanding the rds_superuser role")
        cluster.execute(
            "CREATE ROLE main_user LOGIN NOSUPERUSER INHERIT CREATEDB CREATEROLE REPLICATION "
            "PASSWORD 'Correct-Horse-18'"
        )
        cluster.execute("GRANT rds_iam TO rds_superuser WITH ADMIN OPTION")
        cluster.execute("GRANT SET ON PARAMETER session_replication_role TO rds_superuser WITH GRANT OPTION")
        cluster.execute("GRANT rds_superuser TO main_user WITH ADMIN OPTION")
        cluster.execute("CREATE DATABASE citizens OWNER main_user")
        yield Server(cluster)
    finally:
        host.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_log_and_roll_forward_need_no_superuser(server: Server, tmp_path: Path) -> None:
    with server.open() as main:
        assert main.run("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", 5) == [[False]]
        main.run("CREATE TABLE before (n int); INSERT INTO before VALUES (1)", 5)
        prepare(main)
        made = len(server.let)
        assert {"CREATE EVENT TRIGGER RECOVERY_GIVE_IDENTITY", "CREATE PUBLICATION CITIZENS_LOG FOR"} <= set(server.let)
        prepare(main)
        assert len(server.let) == made, "a repeat makes nothing anew"
        assert main.run("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'citizens%' AND NOT rolsuper", 5) == [
            [len(ROLES)]
        ]
        main.run("CREATE ROLE clerk LOGIN PASSWORD 'Correct-Horse-18'; GRANT CREATE ON DATABASE citizens TO clerk", 5)
    with server.open("clerk") as clerk:
        clerk.run("CREATE SCHEMA desk CREATE TABLE notes (note text)", 5)
        clerk.run("INSERT INTO desk.notes VALUES ('first')", 5)
    with server.open() as main:
        prepare(main)  # as every few minutes: what has an owner by now may be rolled forward
    server.cluster.execute("ALTER ROLE citizens_log REPLICATION")  # which RDS gives by rds_replication
    root = tmp_path / "log"
    begin = keep(server, root)
    for name in ("by_main", "by_role"):
        with server.open(database="postgres") as elsewhere:
            elsewhere.run(f"CREATE DATABASE {name} TEMPLATE citizens STRATEGY file_copy", 20)
    with server.open() as main, server.open("clerk") as clerk:
        main.run("UPDATE before SET n = 2", 5)
        main.run("CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)", 5)
        main.run("INSERT INTO numbered (name) SELECT '市民' || n FROM generate_series(1, 100) AS n", 5)
        main.run(
            "TRUNCATE before; INSERT INTO before VALUES (3); ALTER TABLE numbered ADD COLUMN more int DEFAULT 5", 5
        )
        clerk.run("UPDATE desk.notes SET note = 'second'; CREATE TABLE desk.more (n int PRIMARY KEY)", 5)
        clerk.run("INSERT INTO desk.more VALUES (1); TRUNCATE desk.notes; DROP TABLE desk.notes", 5)
    keep(server, root)
    assert verify(root).verdict == OK
    for database, user in (("by_main", MAIN_USER), ("by_role", "citizens_roll_forward")):
        with server.open() as main, server.open(user, database) as target:
            if user == MAIN_USER:
                # A person who signs in as the main user can be clerk only after saying so.
                target.run("GRANT clerk TO main_user", 5)
            account = roll_forward(target, Log(root), Until(), start=begin)
            assert (account.ddl, account.reached) == (4, True)
            with server.open(database=database) as owner:
                assert digests(owner, 20) == digests(main, 20)
                assert owners(owner) == owners(main)
    with server.open() as main:
        assert prepare(main, transaction_log=False), "the slot goes as well"
        assert main.run("SELECT evtname FROM pg_event_trigger", 5) == []


def keep(server: Server, root: Path) -> Position:
    """All that there is, by the role whose job that is; where the log ends then."""
    with server.open("citizens_log") as keeper:
        archive = Archive(keeper, root / "epoch-1", 1)
        archive.prepare()
        while archive.step() is not None:
            pass
        ((end,),) = keeper.run("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint", 5)
        return Position(1, int(end))


def owners(session: Session) -> list[list[Any]]:
    return session.run(
        "SELECT relname::text, relowner::regrole::text FROM pg_class WHERE relnamespace::regnamespace::text "
        "IN ('public', 'desk') AND relkind = 'r' ORDER BY 1",
        5,
    )


def test_a_function_of_the_main_users_is_only_for_the_role_that_rolls_forward(server: Server) -> None:
    with server.open() as main:
        prepare(main)
        for role in ROLES:
            ((may,),) = main.run(
                "SELECT has_function_privilege(:role, 'recovery.run_ddl(text)', 'EXECUTE')", 5, role=role
            )
            assert may is (role == "citizens_roll_forward"), role
        assert not main.run("SELECT 1 WHERE has_function_privilege('public', 'recovery.run_ddl(text)', 'EXECUTE')", 5)
