"""After a promotion: what the old epoch's log holds beyond the promoted member is applied to it, as far as it goes.

What cannot be applied does not keep the database from the citizens: the account tells it, and the failover goes on.
"""

from __future__ import annotations

from typing import Any

from recovery.connection import Session
from recovery.transaction_log import standing
from recovery.transaction_log.application import Diverged
from recovery.transaction_log.batches import Until
from recovery.transaction_log.ddl import DdlRefused
from recovery.transaction_log.path import Log, LogUnfit, write_branch
from recovery.transaction_log.pgoutput import MessageUnknown
from recovery.transaction_log.roll_forward import Unsuitable, account_of, roll_forward
from recovery.transaction_log.segment import SegmentCorrupt

REFUSALS = (DdlRefused, Diverged, LogUnfit, MessageUnknown, SegmentCorrupt, standing.StandsNowhere, Unsuitable)
"""What another try would not change."""


def bring_up(session: Session, log: Log, epoch: int, seconds: float) -> dict[str, Any]:
    """The account (see `Account.as_json`) of rolling a promoted member forward to the end of `epoch`'s log.

    With `trouble` in it: why transactions of the log are known to be missing. Where the new epoch was branched off is
    written down before anything is applied, so a repeat finds the same; one that comes early waits
    for the first. Raises what `Session.run` raises: try again.
    """
    try:
        stands = standing.find(session, log, seconds)
    except REFUSALS as refusal:
        return {"transactions": 0, "trouble": str(refusal)}
    if stands.epoch != epoch:
        return {"transactions": 0, "had": str(stands), "trouble": None}
    trouble = None
    for changes in (None, 1):
        try:
            write_branch(log.folder(epoch + 1), stands)
            account = roll_forward(
                session,
                log,
                Until(),
                start=stands,
                last_epoch=epoch,
                stop_at_gap=True,
                seconds=seconds,
                changes=changes,
                patience=seconds / 2,
            )
            return {**account.as_json(), "trouble": account.gap}
        except Diverged as diverged:
            # Once more, one transaction after the other: what comes before the one that does not fit is not lost.
            trouble = str(diverged)
        except REFUSALS as refusal:
            trouble = str(refusal)
            break
    return {**account_of(session, log, stands, seconds).as_json(), "trouble": trouble}
