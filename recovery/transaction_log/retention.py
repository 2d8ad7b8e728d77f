"""Let the log's oldest segments go: by age, never past what the newest recovery point needs, never under a hold.

What is to go is decided by `expiring`, a pure rule. Before a segment is removed the epoch's anchor says which was the
last to go and what its SHA-256 was, so that the chain still proves itself from its new beginning on. Killed anywhere,
the next run removes what the anchor has passed and this one had no time for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recovery.clock import iso
from recovery.transaction_log import segment
from recovery.transaction_log.segment import SegmentCorrupt

ANCHOR = "anchor.json"
HOLDS = "holds.json"
DAY_SECONDS = 86_400.0
MARGIN_SECONDS = 3600.0
"""Kept before the newest recovery point: commit times and RDS's clock are not the same, and a transaction that was
running when the recovery point was made began before it."""
_EPOCH = re.compile(r"epoch-([1-9][0-9]*)")
_HOLD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


class RetentionRefused(Exception):
    """What was asked for cannot be done; nothing was changed."""


@dataclass(frozen=True)
class Policy:
    """How long the log is kept: `keep_seconds`, and all since `needed_since` (epoch seconds), the time of the newest
    recovery point; None when none is known, and then nothing goes.
    """

    keep_seconds: float
    needed_since: float | None


@dataclass(frozen=True)
class Anchor:
    """Where an epoch's log begins now: behind segment `name` of `sha256`, which ended at `last` (WAL position, bytes);
    `expired` segments have gone in all.
    """

    name: str
    sha256: str
    last: int
    expired: int


@dataclass(frozen=True)
class Hold:
    """A reason for which nothing may go, its name, and since when (ISO 8601)."""

    name: str
    reason: str
    since: str


@dataclass(frozen=True)
class Expired:
    """What has gone (or would go), by epoch folder's name; `held` names the holds that kept everything."""

    segments: dict[str, int]
    bytes: int
    held: tuple[str, ...]
    reason: str
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        """For monitoring."""
        return asdict(self)

    def as_text(self) -> str:
        """For people."""
        verb = "would go" if self.dry_run else "gone"
        lines = [f"{folder}: {number} segments {verb}" for folder, number in self.segments.items()]
        return "\n".join([*lines, f"{sum(self.segments.values())} segments, {self.bytes} bytes {verb}; {self.reason}"])


def expiring(committed: Iterable[float | None], policy: Policy, now: float) -> int:
    """How many of an epoch's oldest segments may go, given when the last transaction of each *but the newest* committed
    (epoch seconds; None: it holds none, and goes with what follows it). The newest stays: the chain goes on from it.
    """
    if policy.needed_since is None:
        return 0
    before = min(now - policy.keep_seconds, policy.needed_since - MARGIN_SECONDS)
    going = 0
    for number, at in enumerate(committed, 1):
        if at is not None:
            if at >= before:
                break
            going = number
    return going


def anchor(folder: Path) -> Anchor | None:
    """An epoch's anchor; None when nothing of it has expired, SegmentCorrupt when it cannot be read."""
    try:
        found = json.loads((folder / ANCHOR).read_text(encoding="utf-8"))
        return Anchor(str(found["name"]), str(found["sha256"]), int(found["last"]), int(found["expired"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise SegmentCorrupt(f"{folder / ANCHOR} cannot be read: {error!r}.") from error


def holds(root: Path) -> tuple[Hold, ...]:
    """The holds on a log; RetentionRefused when they cannot be read, for then nobody knows that there are none."""
    try:
        found = json.loads((root / HOLDS).read_text(encoding="utf-8"))
        return tuple(Hold(str(each["name"]), str(each["reason"]), str(each["since"])) for each in found)
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, KeyError) as error:
        raise RetentionRefused(f"{root / HOLDS} cannot be read ({error!r}), so nothing expires; mend it.") from error


def hold(root: Path, name: str, reason: str, now: float) -> Hold:
    """Keep everything until `release`. A repeat changes nothing; RetentionRefused when the name has another reason."""
    if not _HOLD_NAME.fullmatch(name) or not reason.strip():
        raise RetentionRefused("A hold has a name (letters, digits, space and ._-, at most 64) and a reason.")
    _require(root)
    with segment.alone(root):
        there = holds(root)
        for each in there:
            if each.name == name:
                if each.reason != reason:
                    raise RetentionRefused(f"There is a hold {name} already, because: {each.reason}")
                return each
        made = Hold(name, reason, iso(now))
        segment.write_synced(root / HOLDS, json.dumps([asdict(each) for each in (*there, made)]))
        return made


def release(root: Path, name: str) -> None:
    """Take a hold away; RetentionRefused when there is none of this name."""
    _require(root)
    with segment.alone(root):
        there = holds(root)
        left = [each for each in there if each.name != name]
        if len(left) == len(there):
            known = ", ".join(each.name for each in there) or "none"
            raise RetentionRefused(f"There is no hold {name}; there are: {known}.")
        segment.write_synced(root / HOLDS, json.dumps([asdict(each) for each in left]))


def expire(root: Path, policy: Policy, now: float, dry_run: bool = False) -> Expired:
    """Remove what may go from every epoch of the log below `root`; with `dry_run` only say what.

    SegmentCorrupt when the chain does not hold where it is to be cut: damage must be seen, not expire.
    """
    _require(root)
    with segment.alone(root):
        held = tuple(each.name for each in holds(root))
        if held or policy.needed_since is None:
            why = f"held by {', '.join(held)}" if held else "no recovery point is known, so all of it is needed"
            return Expired({}, 0, held, why, dry_run)
        going = {
            folder.name: _expire_epoch(folder, policy, now, dry_run)
            for folder in sorted(root.iterdir())
            if _EPOCH.fullmatch(folder.name) and folder.is_dir()
        }
        counts = {name: number for name, (number, _) in going.items() if number}
        return Expired(counts, sum(size for _, size in going.values()), (), _reason(policy, now), dry_run)


def _reason(policy: Policy, now: float) -> str:
    assert policy.needed_since is not None
    by_age, by_need = now - policy.keep_seconds, policy.needed_since - MARGIN_SECONDS
    if by_need < by_age:
        return f"all since {iso(by_need)} is needed by the newest recovery point"
    return f"all since {iso(by_age)} is kept"


def _expire_epoch(folder: Path, policy: Policy, now: float, dry_run: bool) -> tuple[int, int]:
    """How many segments of an epoch go, and their bytes."""
    before = anchor(folder)
    there = segment.segments(folder)
    passed = [path for path in there if before is not None and path.name <= before.name]
    paths = there[len(passed) :]
    cut = expiring((segment.read_header(path).committed_at for path in paths[:-1]), policy, now)
    going = [*passed, *paths[:cut]]
    size = sum(path.stat().st_size for path in going)
    if cut and not dry_run:
        last, following = segment.read(paths[cut - 1]), segment.read(paths[cut])
        if following.header.previous != last.sha256:
            raise SegmentCorrupt(f"{paths[cut].name} does not follow {paths[cut - 1].name}; verify the log.")
        gone = (before.expired if before else 0) + cut
        made = Anchor(last.path.name, last.sha256, last.header.last, gone)
        segment.write_synced(folder / ANCHOR, json.dumps(asdict(made)))
    if not dry_run:
        for path in going:
            path.unlink()
        if going:
            segment.sync_folder(folder)
    return len(going), size


def _require(root: Path) -> None:
    if not root.is_dir() or not any(_EPOCH.fullmatch(entry.name) for entry in root.iterdir()):
        raise RetentionRefused(f"There is no log in {root}; name the folder that holds epoch-1, epoch-2 and so on.")
