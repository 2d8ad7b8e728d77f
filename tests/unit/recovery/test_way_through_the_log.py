"""From epoch to epoch: every transaction of the surviving history once, and none of those that were left behind."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.transaction_log import path
from recovery.transaction_log.batches import Batches, Until
from recovery.transaction_log.path import LogUnfit, write_branch
from recovery.transaction_log.position import Position
from recovery.transaction_log.segment import CHANGES
from tests.examples import up_to
from tests.unit.recovery.test_segment import stream
from tests.unit.recovery.test_verification_of_the_log import Log

OID = (16384).to_bytes(4, "big")
RELATION = b"R" + OID + b"public\0t\0d\x00\x01\x01id\0" + (23).to_bytes(4, "big") + (-1).to_bytes(4, "big", signed=True)


class History:
    """The log of several epochs, and what is in the database that lives on: positions in the order of commits."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._epoch = 0
        self.commits: list[Position] = []

    def begin(self, commits: list[int], begins: int, branched: int | None = None) -> None:
        """An epoch: `commits` are those that its primary makes, its slot stands at `begins` first.

        Branched off at a commit of the epoch before: what that has beyond is left behind. A slot that stands before the
        branch gives the old epoch's transactions behind it once more, under the positions that they have.
        """
        inherited = [] if branched is None else [at.lsn for at in self.commits if begins < at.lsn <= branched]
        self._epoch += 1
        log = Log(self._root, self._epoch)
        if branched is not None:
            self.commits = [at for at in self.commits if at.epoch < self._epoch - 1 or at.lsn <= branched]
            write_branch(log.folder, Position(self._epoch - 1, branched))
        log.link(replace(log.header, first=begins, last=begins))
        for commit in [*inherited, *(commit for commit in commits if commit > begins)]:
            self._keep(log, commit)
        self.commits += [Position(self._epoch, commit) for commit in commits if commit > begins]

    def _keep(self, log: Log, commit: int) -> None:
        ends = commit + 8
        name = f"{self._epoch}/{commit}".encode()
        messages = [
            b"B" + commit.to_bytes(8, "big") + bytes(8) + (7).to_bytes(4, "big"),
            RELATION,
            b"I" + OID + b"N\x00\x01t" + len(name).to_bytes(4, "big") + name,
            b"C\x00" + commit.to_bytes(8, "big") + ends.to_bytes(8, "big") + bytes(8),
        ]
        assert log.newest is not None
        header = replace(log.header, previous=log.newest.sha256, kind=CHANGES, first=commit, last=ends, messages=4)
        log.link(header, stream(messages))

    def applied(self, start: Position, last_epoch: int) -> list[Position]:
        """What a roll forward of a database that stands at `start` applies, in its order."""
        stretches = path.Log(self._root).way(start, last_epoch)
        parts = [
            (segment, stretch.after, stretch.until) for stretch in stretches for segment in path.read(stretch, "42")
        ]
        return [batch.commit.at for batch in Batches(parts, Until(), changes=1) if batch.commit is not None]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[list[int], int, int | None]]:
    """Commits are far enough apart for a segment each; epochs may use the same positions for other transactions."""
    epochs: list[tuple[list[int], int, int | None]] = []
    lived: list[int] = []
    for number in range(draw(st.integers(1, 4))):
        if number == 0:
            branched, begins = None, 10
        else:
            branched = draw(st.sampled_from(lived))
            # The slot came along with the promotion, and stands before the branch or at it; or it was made later.
            begins = draw(st.sampled_from([branched - 30, branched - 5, branched, branched + 5, branched + 40]))
            begins = max(begins, 10)
        after = max(branched or 0, begins)
        steps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
        commits = [after + 10 * sum(steps[: n + 1]) for n in range(len(steps))]
        epochs.append((commits, begins, branched))
        lived = commits
    return epochs


@settings(max_examples=up_to(40))
@given(histories(), st.data())
def test_the_way_holds_what_lives_on_behind_where_the_database_stands_and_nothing_else(
    epochs: list[tuple[list[int], int, int | None]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder))
        for commits, begins, branched in epochs:
            history.begin(commits, begins, branched)
        start = data.draw(st.sampled_from(history.commits))
        wanted = [at for at in history.commits if at > start]
        assert history.applied(start, len(epochs)) == wanted


def test_what_a_slot_that_came_along_gives_once_more_is_not_applied_twice(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.begin([20, 30, 40, 50], begins=10)
    history.begin([60, 70], begins=15, branched=40)
    stretch = path.Log(tmp_path).way(Position(1, 20), 2)[1]
    assert [path.bounds(found)[0] for found in stretch.segments] == [30, 40, 60, 70], (
        "from the branch on, and one before"
    )
    assert history.applied(Position(1, 20), 2) == [
        Position(1, 30), Position(1, 40), Position(2, 60), Position(2, 70)
    ]  # fmt: skip


def test_a_database_beyond_the_branch_or_a_branch_off_another_epoch_is_of_another_history(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.begin([20, 30, 40], begins=10)
    history.begin([50], begins=30, branched=30)
    with pytest.raises(LogUnfit, match="another history"):
        history.applied(Position(1, 40), 2)
    history.begin([60], begins=50, branched=50)
    (tmp_path / "epoch-3" / "branch.json").write_text('{"epoch": 1, "lsn": "0/32"}')
    with pytest.raises(LogUnfit, match="Epoch 3 was branched off 1:0/32, not off epoch 2"):
        history.applied(Position(1, 20), 3)
    (tmp_path / "epoch-3" / "branch.json").write_text("torn")
    with pytest.raises(LogUnfit, match="bring it back from the backup"):
        history.applied(Position(1, 20), 3)
