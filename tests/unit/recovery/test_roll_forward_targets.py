"""Where a roll forward begins and stops, what it refuses, and that it may be killed and repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_cloud.cluster import REPLICATOR
from recovery import clock
from recovery.connection import Session
from recovery.transaction_log import path, source, standing
from recovery.transaction_log.__main__ import main
from recovery.transaction_log.after_promotion import bring_up
from recovery.transaction_log.application import Application, Diverged
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.batches import Batches, Until
from recovery.transaction_log.ddl import DdlRefused
from recovery.transaction_log.digest import digests
from recovery.transaction_log.listing import Listed, transactions
from recovery.transaction_log.path import GapOnTheWay, Log, LogUnfit
from recovery.transaction_log.position import Position, position
from recovery.transaction_log.roll_forward import Unsuitable, roll_forward
from recovery.transaction_log.verification import verify
from tests.unit.recovery.conftest import MASTER, PASSWORD, PRIMARY, STANDBY, Pair
from tests.unit.recovery.rehearsal import TO_THE_END, Rehearsal


class Killed(BaseException):
    """The process ended here."""


@dataclass
class Fuse:
    """Ends the process at a step of the batch with this number, before the step takes effect or after."""

    step: str
    batch: int
    begun: int = 0

    def apply(self, real: Callable[..., None]) -> Callable[..., None]:
        def apply(application: Application, nets: object, ahead: bool = False) -> None:
            self.begun += 1
            if self._burns("apply"):
                raise Killed
            real(application, nets, ahead)
            if self._burns("applied"):
                raise Killed

        return apply

    def run(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def run(session: Session, sql: str, seconds: float, **parameters: object) -> Any:
            if self._burns("record") and "INSERT INTO recovery.roll_forward" in sql:
                session.abort()
                raise Killed
            if sql == "COMMIT" and self._burns("commit"):
                session.abort()
                raise Killed
            answer = real(session, sql, seconds, **parameters)
            if sql == "COMMIT" and self._burns("committed"):
                session.abort()  # the answer is lost
                raise Killed
            return answer

        return run

    def _burns(self, step: str) -> bool:
        return self.step == step and self.begun == self.batch


def numbered(rehearsal: Rehearsal, transactions: int = 6) -> list[Listed]:
    """So many transactions, each with one row, in as many segments; what `list` shows of them."""
    rehearsal.primary.run("CREATE TABLE t (id int PRIMARY KEY, n int)", 5)
    rehearsal.begin()
    for n in range(transactions):
        rehearsal.primary.run(f"INSERT INTO t VALUES ({n}, 0)", 5)
        rehearsal.keep()
    return list(listed_in(rehearsal.root))


def listed_in(root: Path) -> Iterator[Listed]:
    return transactions(Log(root))


def rows(rehearsal: Rehearsal) -> list[int]:
    with rehearsal.open(rehearsal.copy) as target:
        return [int(row[0]) for row in target.run("SELECT id FROM public.t ORDER BY id", 5)]


def test_it_stops_after_a_position_before_a_transaction_or_at_a_time(rehearsal: Rehearsal) -> None:
    found = numbered(rehearsal)
    assert rehearsal.forward(Until(last=found[1].transaction.at)).reached
    assert rows(rehearsal) == [0, 1]
    assert rehearsal.forward(Until(before=found[3].transaction.at)).transactions == 3
    assert rows(rehearsal) == [0, 1, 2]
    rehearsal.forward(Until(time_us=found[4].transaction.time_us))
    assert rows(rehearsal) == [0, 1, 2, 3, 4]
    assert not rehearsal.forward(Until(time_us=found[-1].transaction.time_us + 1)).reached
    account = rehearsal.forward()
    assert (rows(rehearsal), account.reached, account.transactions) == ([0, 1, 2, 3, 4, 5], True, 6)


def test_run_twice_it_does_nothing_the_second_time(rehearsal: Rehearsal) -> None:
    numbered(rehearsal)
    first = rehearsal.forward()
    with rehearsal.open(rehearsal.copy) as target:
        target.run("DELETE FROM public.t WHERE id = 3", 5)
    assert rehearsal.forward() == first
    assert rows(rehearsal) == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("step", ["apply", "applied", "record", "commit", "committed"])
def test_killed_in_any_batch_it_resumes(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    numbered(rehearsal)
    for killed_in in range(1, 4):
        fuse = Fuse(step, killed_in)
        with monkeypatch.context() as patch:
            patch.setattr(Application, "apply", fuse.apply(Application.apply))
            patch.setattr(Session, "run", fuse.run(Session.run))
            with pytest.raises(Killed):
                rehearsal.forward(changes=1)
    account = rehearsal.forward(changes=1)
    rehearsal.same()
    assert (account.transactions, account.tables["public.t"].inserted) == (6, 6)


def test_sequences_go_on_behind_every_number_that_was_given_out(rehearsal: Rehearsal) -> None:
    rehearsal.primary.run(
        "CREATE TABLE t (id serial PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY); "
        'CREATE SEQUENCE down INCREMENT -2; CREATE SEQUENCE "still"; SELECT nextval(\'"still"\'); '
        "INSERT INTO t DEFAULT VALUES",
        5,
    )
    rehearsal.begin()
    rehearsal.primary.run(
        "INSERT INTO t SELECT FROM generate_series(1, 40); SELECT nextval('down'), nextval('down')", 5
    )
    rehearsal.primary.run("CREATE SEQUENCE later START 7; INSERT INTO t DEFAULT VALUES; SELECT nextval('later')", 5)
    rehearsal.forward()
    names = ("t_id_seq", "t_n_seq", "down", "still", "later")
    for name in names:
        ((given,),) = rehearsal.primary.run(f"SELECT last_value FROM {name}", 5)
        with rehearsal.open(rehearsal.copy) as target:
            ((following,),) = target.run(f"SELECT nextval('public.{name}')", 5)
        assert following == given + (-2 if name == "down" else 1)


def test_a_dry_run_says_what_would_come_and_changes_nothing(rehearsal: Rehearsal) -> None:
    numbered(rehearsal)
    account = rehearsal.forward(dry_run=True)
    assert (account.transactions, account.changes, rows(rehearsal)) == (6, 6, [])
    assert rehearsal.forward().position == account.position


def test_a_row_that_is_not_as_the_log_expects_stops_it(rehearsal: Rehearsal) -> None:
    rehearsal.primary.run("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1), (2, 2)", 5)
    rehearsal.begin()
    rehearsal.primary.run("INSERT INTO t VALUES (3, 3)", 5)
    rehearsal.primary.run("UPDATE t SET n = 9 WHERE id = 2", 5)
    for spoil in ("DELETE FROM public.t WHERE id = 2", "INSERT INTO public.t VALUES (2, 2), (3, 4)"):
        with rehearsal.open(rehearsal.copy) as target:
            target.run(spoil, 5)
        with pytest.raises(Diverged, match="somebody else"):
            rehearsal.forward()
    assert rows(rehearsal) == [1, 2, 3]


def test_a_gap_on_the_way_is_refused_before_anything_is_applied(rehearsal: Rehearsal) -> None:
    numbered(rehearsal, 2)
    with rehearsal.members.open() as session:
        source.drop_slot(session, 5)
    rehearsal.primary.run("INSERT INTO t VALUES (7, 7)", 5)
    rehearsal.keep()
    rehearsal.primary.run("INSERT INTO t VALUES (8, 8)", 5)
    with pytest.raises(GapOnTheWay, match="stop-at-gap"):
        rehearsal.forward()
    assert rows(rehearsal) == []
    account = rehearsal.forward(stop_at_gap=True)
    assert rows(rehearsal) == [0, 1]
    assert account.gap is not None
    assert "known to be missing" in account.as_text()
    with pytest.raises(GapOnTheWay):
        rehearsal.forward()


def test_a_broken_chain_or_a_foreign_log_is_refused(rehearsal: Rehearsal) -> None:
    found = numbered(rehearsal, 4)
    paths = Log(rehearsal.root).segments(1)
    hidden = paths[2].rename(paths[2].with_suffix(".away"))
    with pytest.raises(LogUnfit, match="does not follow"), rehearsal.open(rehearsal.copy) as target:
        roll_forward(target, Log(rehearsal.root), TO_THE_END, start=rehearsal.start)
    hidden.rename(paths[2])
    for early in paths[:3]:
        early.rename(early.with_suffix(".expired"))
    with rehearsal.open(rehearsal.copy) as target, pytest.raises(LogUnfit, match="does not reach back"):
        roll_forward(target, Log(rehearsal.root), TO_THE_END, start=rehearsal.start)
    with rehearsal.open(rehearsal.copy) as target, pytest.raises(LogUnfit, match="another history"):
        list(path.read(Log(rehearsal.root).way(found[2].transaction.at, 1)[0], "7"))
    with pytest.raises(LogUnfit, match="no log in"):
        Log(rehearsal.root / "nowhere")


def test_ddl_comes_between_the_changes_before_and_after_it(rehearsal: Rehearsal) -> None:
    rehearsal.primary.run("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1)", 5)
    rehearsal.primary.run("CREATE TYPE mood AS ENUM ('sad')", 5)
    rehearsal.begin()
    rehearsal.primary.run(
        "BEGIN; UPDATE t SET n = 2; ALTER TABLE t ADD name text; INSERT INTO t VALUES (2, 2, 'two'); "
        "CREATE TABLE more (a int PRIMARY KEY, b int); INSERT INTO more VALUES (1, 1); COMMIT",
        5,
    )
    rehearsal.primary.run("UPDATE t SET name = 'one' WHERE id = 1", 5)
    rehearsal.primary.run("ALTER TABLE t DROP n; UPDATE t SET name = 'x'", 5)
    rehearsal.primary.run("CREATE TABLE made AS SELECT n, n::numeric(9, 2) AS m FROM generate_series(1, 50) n", 5)
    rehearsal.primary.run("ALTER TYPE mood ADD VALUE '嬉しい'", 5)
    rehearsal.primary.run("CREATE TABLE moods (m mood); INSERT INTO moods VALUES ('嬉しい')", 5)
    rehearsal.primary.run("DROP TABLE more", 5)
    account = rehearsal.forward()
    rehearsal.same()
    assert account.ddl == 9  # seven, and two tables without a key were given an identity
    assert next(listed for listed in listed_in(rehearsal.root) if listed.ddl == ["DROP TABLE public.more"])


def test_ddl_in_a_subtransaction_comes_before_the_rows_that_follow_it(rehearsal: Rehearsal) -> None:
    rehearsal.primary.run("CREATE TABLE t (id int PRIMARY KEY)", 5)
    rehearsal.begin()
    rehearsal.primary.run(
        "BEGIN; SAVEPOINT a; ALTER TABLE t ADD n int; RELEASE a; INSERT INTO t VALUES (1, 1); "
        "SAVEPOINT b; INSERT INTO t VALUES (2, 2); ALTER TABLE t DROP n; INSERT INTO t VALUES (3); COMMIT",
        5,
    )
    rehearsal.forward()
    rehearsal.same()


def test_rows_may_come_before_the_ddl_that_makes_their_table(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Batches.__init__, "__defaults__", (10, 500))
    rehearsal.begin()
    rehearsal.primary.run("CREATE TABLE made AS SELECT n, n::numeric(9, 2) AS m FROM generate_series(1, 500) n", 5)
    rehearsal.forward()
    rehearsal.same()


def test_ddl_that_somebody_else_wrote_stops_it_with_nothing_half_done(rehearsal: Rehearsal) -> None:
    rehearsal.primary.run("CREATE TABLE t (id int PRIMARY KEY)", 5)
    rehearsal.begin()
    rehearsal.primary.run("INSERT INTO t VALUES (1)", 5)
    rehearsal.primary.run(
        "BEGIN; INSERT INTO t VALUES (2); SELECT pg_logical_emit_message(true, 'citizens.ddl', 'DROP TABLE t'); COMMIT",
        5,
    )
    with pytest.raises(DdlRefused):
        rehearsal.forward(changes=1)
    assert rows(rehearsal) == [1]


def test_two_roll_forwards_at_once_are_one_too_many(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(rehearsal, 1)
    with rehearsal.open(rehearsal.copy) as first, rehearsal.open(rehearsal.copy) as second:
        roll_forward(first, Log(rehearsal.root), TO_THE_END, start=rehearsal.start)
        monkeypatch.setattr("recovery.transaction_log.roll_forward.LOCK_SECONDS", 1)
        with pytest.raises(Unsuitable, match="Another roll forward"):
            roll_forward(second, Log(rehearsal.root), TO_THE_END, start=rehearsal.start)


def test_a_standby_is_refused(members: Pair, rehearsal: Rehearsal) -> None:
    numbered(rehearsal, 1)
    with members.open(members.standby) as standby, pytest.raises(Unsuitable, match="in recovery"):
        roll_forward(standby, Log(rehearsal.root), TO_THE_END)


# -- where a database stands -------------------------------------------------------------------------------------------


def test_a_database_knows_to_the_transaction_where_it_stands(rehearsal: Rehearsal) -> None:
    found = numbered(rehearsal, 9)
    log = Log(rehearsal.root)
    assert standing.find(rehearsal.primary, log, 5) == found[-1].transaction.at
    known = [listed.transaction for listed in found]
    strangers = [
        transaction.__class__(transaction.at, transaction.time_us + 1, transaction.xid) for transaction in known
    ]
    for here in range(len(known)):
        assert standing.last_known(rehearsal.primary, [*known[:here], *strangers[here:]], 5) == (
            known[here - 1] if here else None
        )


def test_what_stands_nowhere_in_the_log_is_refused(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(rehearsal, 2)
    monkeypatch.setattr(standing, "_KNOWN", standing._KNOWN.replace("WHERE", "WHERE false AND"))
    with pytest.raises(standing.StandsNowhere, match="--from EPOCH:LSN"):
        standing.find(rehearsal.primary, Log(rehearsal.root), 5)


def test_onto_a_promoted_standby_what_it_lacked_and_nothing_else(new_pair: Pair, tmp_path: Path) -> None:
    """The standby stands still while the primary goes on; promoted, it is rolled forward to the log's end."""
    new_pair.prepare()
    folder = tmp_path / "epoch-1"
    with new_pair.open() as primary, new_pair.open() as keeper:
        kept = Archive(keeper, folder, 1)
        kept.prepare()
        primary.run("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (0, 0)", 5)
        primary.run("INSERT INTO t SELECT n, n FROM generate_series(1, 50) n", 5)
        kept.step()
        primary.run("UPDATE t SET n = 1 WHERE id = 1", 5)
        new_pair.caught_up()
        cut_off(new_pair)
        primary.run("UPDATE t SET n = -1 WHERE id < 10", 5)
        primary.run("DELETE FROM t WHERE id = 20; INSERT INTO t VALUES (60, 60)", 5)
        while kept.step() is not None:
            pass
        wanted = digests(primary, 5)
    new_pair.fleet.kill(PRIMARY)
    promote(new_pair)
    log = Log(tmp_path)
    with new_pair.open(new_pair.standby) as promoted:
        before = digests(promoted, 5)
        assert before != wanted
        account = roll_forward(promoted, log, TO_THE_END)
        assert digests(promoted, 5) == wanted
    assert (account.transactions, account.tables["public.t"].updated, account.end) == (2, 10, log.end())


def test_a_client_that_was_quicker_than_the_roll_forward_costs_what_comes_behind_it_and_no_more(
    new_pair: Pair, tmp_path: Path
) -> None:
    """It wrote to the promoted member what a transaction of the log writes too: those before that one are applied."""
    new_pair.prepare()
    with new_pair.open() as primary, new_pair.open() as keeper:
        kept = Archive(keeper, tmp_path / "epoch-1", 1)
        kept.prepare()
        primary.run("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (0, 0)", 5)
        new_pair.caught_up()
        cut_off(new_pair)
        for statement in (
            "INSERT INTO t VALUES (1, 1)",
            "UPDATE t SET n = 5 WHERE id = 0",
            "INSERT INTO t VALUES (7, 7)",
            "INSERT INTO t VALUES (8, 8)",
        ):
            primary.run(statement, 5)
        while kept.step() is not None:
            pass
    new_pair.fleet.kill(PRIMARY)
    promote(new_pair)
    log = Log(tmp_path)
    with new_pair.open(new_pair.standby) as promoted:
        promoted.run("INSERT INTO t VALUES (7, -7)", 5)
        account = bring_up(promoted, log, 1, 20)
        assert (account["transactions"], account["tables"]["public.t"]["inserted"]) == (2, 1)
        assert '"public"."t" does not take the log' in account["trouble"]
        found = promoted.run("SELECT id, n FROM public.t ORDER BY id", 5)
        assert found == [[0, 5], [1, 1], [7, -7]], "nothing of the client's was overwritten"
        assert bring_up(promoted, log, 1, 20) == account, "another try adds nothing and tells the same"


def cut_off(pair: Pair) -> None:
    """The standby receives nothing any more: what it lacks is not waiting to be replayed."""
    with pair.open() as primary:
        primary.run(f"ALTER ROLE {REPLICATOR} NOLOGIN", 5)
        pair.caught_up()
        primary.run("SELECT pg_terminate_backend(pid) FROM pg_stat_replication", 5)
    with pair.open(pair.standby) as standby:
        deadline = time.monotonic() + 20
        while standby.run("SELECT 1 FROM pg_stat_wal_receiver", 5):
            assert time.monotonic() < deadline, "the standby goes on receiving"
            time.sleep(0.02)


def promote(pair: Pair) -> None:
    """Promote the standby, which restarts it as RDS does, and wait until that is over."""
    pair.fleet.promote(STANDBY)
    deadline = time.monotonic() + 30
    while True:
        view = pair.fleet.describe(STANDBY)
        if view.status == "available" and not view.source_identifier:
            return
        assert time.monotonic() < deadline, "the standby is not promoted"
        time.sleep(0.1)


def test_across_a_change_of_roles_each_epoch_up_to_where_the_next_began(new_pair: Pair, tmp_path: Path) -> None:
    """A copy from epoch 1 goes through what epoch 2 kept of it, not through what the old primary did alone."""
    new_pair.prepare()
    with new_pair.open() as primary, new_pair.open() as keeper:
        kept = Archive(keeper, tmp_path / "epoch-1", 1)
        kept.prepare()
        primary.run("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (0, 0)", 5)
        new_pair.caught_up()
        ((start,),) = primary.run("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint", 5)
    with new_pair.open(database="postgres") as elsewhere:
        keeper.close()
        elsewhere.run("CREATE DATABASE before TEMPLATE citizens STRATEGY file_copy", 20)
    with new_pair.open() as primary, new_pair.open() as keeper:
        primary.run("INSERT INTO t VALUES (1, 1)", 5)
        new_pair.caught_up()
        cut_off(new_pair)
        primary.run("INSERT INTO t VALUES (2, 2)", 5)
        kept = Archive(keeper, tmp_path / "epoch-1", 1)
        kept.prepare()
        while kept.step() is not None:
            pass
    new_pair.fleet.kill(PRIMARY)
    promote(new_pair)
    log = Log(tmp_path)
    with new_pair.open(new_pair.standby) as promoted, new_pair.open(new_pair.standby) as keeper:
        source.ensure_publication(promoted, 5)
        branched = standing.find(promoted, log, 5)
        promoted.run("INSERT INTO t VALUES (-1, -1)", 5)  # before the log of epoch 2: seen by nobody
        promoted.run("DELETE FROM t WHERE id = -1", 5)
        second = Archive(keeper, tmp_path / "epoch-2", 2)
        second.prepare()
        promoted.run("INSERT INTO t VALUES (3, 3); UPDATE t SET n = 10 WHERE id = 1", 5)
        while second.step() is not None:
            pass
        wanted = digests(promoted, 5)
        with new_pair.open(new_pair.standby, database="before") as copy:
            begin = Position(1, int(start))
            with pytest.raises(LogUnfit, match="Nobody wrote down where epoch 2 was branched off"):
                roll_forward(copy, Log(tmp_path), TO_THE_END, start=begin)
            path.write_branch(tmp_path / "epoch-2", branched)
            path.write_branch(tmp_path / "epoch-2", branched)
            with pytest.raises(LogUnfit, match="find out which is right"):
                path.write_branch(tmp_path / "epoch-2", begin)
        log = Log(tmp_path)
        with new_pair.open(new_pair.standby, database="before") as copy:
            account = roll_forward(copy, log, TO_THE_END, start=begin)
            assert digests(copy, 5) == wanted
        assert account.transactions == 2
        found = list(transactions(log))
        assert [listed.abandoned for listed in found if "public.t" in listed.tables] == [False, False, True, False]
        with (
            new_pair.open(new_pair.standby, database="before") as copy,
            pytest.raises(LogUnfit, match="another history"),
        ):
            log.way(found[-2].transaction.at, 2)
    # What was written before the log of epoch 2 began is in no log, and verify says so
    assert {finding.kind for finding in verify(tmp_path).findings} <= {"JOIN"}


# -- the command -------------------------------------------------------------------------------------------------------


def command(rehearsal: Rehearsal, *arguments: str, password: str = PASSWORD) -> int:
    endpoint = rehearsal.members.primary
    where = ("--host", endpoint.host, "--port", str(endpoint.port), "--database", rehearsal.copy, "--user", MASTER)
    trust = ("--ca-file", str(rehearsal.members.bundle))
    return main(["roll-forward", *where, *trust, *arguments, str(rehearsal.root)], {"PGPASSWORD": password})


def test_an_operator_finds_the_transaction_and_stops_before_it(
    rehearsal: Rehearsal, capsys: pytest.CaptureFixture[str]
) -> None:
    numbered(rehearsal, 3)
    rehearsal.primary.run("DELETE FROM t", 5)
    rehearsal.keep()
    assert main(["list", str(rehearsal.root), "--table", "public.t"], {}) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4
    assert shown[-1].endswith("public.t -3")
    assert main(["list", str(rehearsal.root), "--json"], {}) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert f"{last['position']}  xid {last['xid']}  {last['committed_at']}" in shown[-1]
    start = ("--from", str(rehearsal.start))
    assert command(rehearsal, *start, "--before-transaction", str(last["xid"]), "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["transactions"] == 3
    assert command(rehearsal, *start, "--before-transaction", last["position"]) == 0
    assert rows(rehearsal) == [0, 1, 2]
    assert "added 3 transactions (3 changes, 0 DDL)" in capsys.readouterr().out
    assert command(rehearsal, *start, "--to-time", last["committed_at"].replace("Z", "999Z")[:26] + "+00:00") == 0
    assert command(rehearsal, *start, "--to-lsn", last["position"]) == 0
    assert rows(rehearsal) == []
    assert main(["list", str(rehearsal.root), "--since", clock.iso(time.time() + 60)], {}) == 0
    assert main(["list", str(rehearsal.root), "--before", clock.iso(0), "--ddl"], {}) == 0


def test_bad_input_is_one_sentence(rehearsal: Rehearsal, capsys: pytest.CaptureFixture[str]) -> None:
    numbered(rehearsal, 1)
    capsys.readouterr()
    for arguments, says in (
        (("--to-lsn", "1/2/3"), "is not a position"),
        (("--before-transaction", "4000000000"), "no transaction of the log has the id 4000000000"),
        (("--from", "9:0/0"), "no log of epoch 9"),
    ):
        assert command(rehearsal, *arguments) == 2
        said = capsys.readouterr().err
        assert says in said
        assert said.count("\n") == 1
    assert command(rehearsal, password="wrong") == 2
    assert main(["list", str(rehearsal.root / "nowhere")], {}) == 2
    assert "name the folder" in capsys.readouterr().err
    for wrong in [["roll-forward", "--to-time", "noon", "."], ["list"]]:
        with pytest.raises(SystemExit) as ended:
            main(wrong, {})
        assert ended.value.code == 2
    assert position("2:A/0", 1) == Position(2, 10 << 32)
    assert position("A/0", 7).epoch == 7
