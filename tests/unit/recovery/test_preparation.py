"""The functions' database roles: what each may do, what it may not, and that they come back by themselves."""

from __future__ import annotations

import threading

import pytest

from recovery import heartbeat
from recovery.connection import Refused, Session
from recovery.preparation import ROLES, prepare
from recovery.transaction_log import source
from tests.unit.recovery.conftest import PASSWORD, Pair


@pytest.fixture
def citizens(members: Pair) -> Pair:
    with members.open() as session:
        session.run("CREATE TABLE citizens (number int PRIMARY KEY); INSERT INTO citizens VALUES (1)", 5)
    return members


def as_role(members: Pair, role: str) -> Session:
    return members.access(role).open(members.primary, 5, "test")


# It may write everybody's tables: as rds_superuser, whose members are superusers in the local cloud.
WITH_ONE_JOB = [role for role in ROLES if role != "citizens_roll_forward"]


@pytest.mark.parametrize("role", WITH_ONE_JOB)
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM public.citizens",
        "INSERT INTO public.citizens VALUES (2)",
        "DELETE FROM recovery.heartbeat",
        "CREATE TABLE public.mine (n int)",
        "CREATE TABLE recovery.mine (n int)",
        "DROP PUBLICATION citizens_log",
        "CREATE ROLE mine",
        "GRANT rds_superuser TO {role}",
        "SET ROLE agency",
        "SELECT pg_read_file('postgresql.conf')",
    ],
)
def test_no_role_may_do_more_than_its_job(citizens: Pair, role: str, statement: str) -> None:
    with as_role(citizens, role) as session, pytest.raises(Refused) as refused:
        session.run(statement.format(role=role), 5)
    assert refused.value.sqlstate == "42501"


@pytest.mark.parametrize("role", ROLES)
def test_every_role_may_ask_whether_the_server_is_in_recovery_on_both_members(members: Pair, role: str) -> None:
    for endpoint, replays in ((members.primary, False), (members.standby, True)):
        with members.access(role).open(endpoint, 5, "test") as session:
            assert heartbeat.state(session, 5).in_recovery is replays


def test_each_role_may_do_its_own_job_and_not_another_ones(members: Pair) -> None:
    with as_role(members, "citizens_witness") as session:
        assert heartbeat.write(session, "a", 1, 1.0, 5).sequence == 1
        with pytest.raises(Refused, match="verification"):
            session.run("SELECT * FROM recovery.verification", 5)
    with as_role(members, "citizens_verify") as session, pytest.raises(Refused, match="heartbeat"):
        session.run("SELECT * FROM recovery.heartbeat", 5)
    with as_role(members, "citizens_log") as session:
        assert source.ensure_slot(session).name == "citizens_log"
        assert source.sequences(session, 5) == {}
        for table in ("heartbeat", "verification", "ddl_key"):
            with pytest.raises(Refused, match=f"permission denied for table {table}"):
                session.run(f"SELECT * FROM recovery.{table}", 5)
    for role in ("citizens_witness", "citizens_probe", "citizens_verify"):
        with as_role(members, role) as session, pytest.raises(Refused, match="replication slots"):
            session.run("SELECT pg_drop_replication_slot('citizens_log')", 5)


def test_no_role_has_a_password_and_none_can_be_used(members: Pair) -> None:
    with members.open() as session:
        rows = session.run("SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'citizens\\_%'", 5)
        assert sorted(rows) == sorted([role, None] for role in ROLES)
        session.run(f"ALTER ROLE citizens_probe PASSWORD '{PASSWORD}'", 5)
    with pytest.raises(Refused, match='PAM authentication failed for user "citizens_probe"'):
        members.open(user="citizens_probe")
    members.prepare()


def test_what_was_lost_or_changed_comes_back_and_what_was_added_goes(members: Pair) -> None:
    with members.open() as session:
        session.run(
            "DROP OWNED BY citizens_witness; DROP ROLE citizens_witness; DROP TABLE recovery.verification;"
            "REVOKE rds_replication FROM citizens_log; GRANT pg_read_all_data TO citizens_log;"
            "ALTER ROLE citizens_probe NOLOGIN; ALTER ROLE citizens_verify CREATEROLE PASSWORD 'Some-Password-1';"
            "GRANT DELETE ON recovery.heartbeat TO PUBLIC",
            5,
        )
        prepare(session)
        assert session.run(
            "SELECT member.rolname, string_agg(held.rolname, ' ' ORDER BY held.rolname) FROM pg_auth_members AS given"
            " JOIN pg_roles AS held ON held.oid = given.roleid JOIN pg_roles AS member ON member.oid = given.member"
            " WHERE member.rolname LIKE 'citizens\\_%' GROUP BY 1 ORDER BY 1",
            5,
        ) == [
            ["citizens_drill", "rds_iam"],
            ["citizens_log", "rds_iam rds_replication"],
            ["citizens_probe", "rds_iam"],
            ["citizens_roll_forward", "rds_iam rds_superuser"],
            ["citizens_verify", "rds_iam"],
            ["citizens_witness", "rds_iam"],
        ]
        assert not session.run("SELECT 1 FROM pg_authid WHERE rolname = 'citizens_verify' AND rolcreaterole", 5)
    with as_role(members, "citizens_witness") as session:
        heartbeat.write(session, "a", 1, 1.0, 5)
        with pytest.raises(Refused):
            session.run("DELETE FROM recovery.heartbeat", 5)
    as_role(members, "citizens_probe").close()


def test_preparations_at_the_same_time_wait_for_each_other(members: Pair) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with members.open() as session:
                prepare(session)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
