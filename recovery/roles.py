"""Who is primary: one record, one epoch number that grows with each change of roles."""

from dataclasses import dataclass

from recovery.clock import iso
from recovery.table import RecoveryTable


class RolesUnknown(Exception):
    """There is no role record yet: no witness has seen one member writable and the other in recovery."""


class RolesChanged(Exception):
    """The roles are no longer those the caller set out from."""


@dataclass(frozen=True)
class Roles:
    """The roles of an epoch: identifiers of primary and standby, ISO-8601 UTC time since when.

    `protected`: the standby is one. After a change of roles it is the old primary, of no use until it was made anew.
    """

    epoch: int
    primary: str
    standby: str
    since: str
    protected: bool = True


def read(table: RecoveryTable) -> Roles | None:
    """The role record, or None while nobody has written it."""
    record = table.get("roles")
    if record is None:
        return None
    return Roles(
        int(record["epoch"]),
        str(record["primary"]),
        str(record["standby"]),
        str(record["since"]),
        bool(record.get("protected", True)),
    )


def known(table: RecoveryTable) -> Roles:
    """The role record; raises RolesUnknown."""
    roles = read(table)
    if roles is None:
        raise RolesUnknown("There is no role record yet; wait until a witness has seen both members, then try again.")
    return roles


def create(table: RecoveryTable, primary: str, standby: str, now: float) -> Roles:
    """Epoch 1, unless another witness was first: then its record."""
    roles = Roles(1, primary, standby, iso(now))
    if table.put_if("roles", roles.__dict__, "attribute_not_exists(id)"):
        return roles
    return known(table)


def advance(table: RecoveryTable, epoch: int, primary: str, standby: str, now: float) -> Roles:
    """From `epoch` to the next, with `primary` and `standby` as the new roles, unprotected.

    A repeat after success returns the record that is there. RolesChanged when the record is of another epoch or another
    pair: somebody else has decided in the meantime.
    """
    roles = Roles(epoch + 1, primary, standby, iso(now), protected=False)
    if table.update_if("roles", roles.__dict__, "epoch = :epoch", {":epoch": epoch}):
        return roles
    found = known(table)
    if (found.epoch, found.primary) != (roles.epoch, primary):
        raise RolesChanged(
            f"Roles of epoch {epoch} were to pass to {primary}, but the record says epoch {found.epoch} with primary "
            f"{found.primary}; look at the incident of that epoch before doing anything."
        )
    return found


def set_protected(table: RecoveryTable, epoch: int, protected: bool) -> bool:
    """Write down whether the standby of `epoch` is one; False when the roles are of another epoch by now."""
    return table.update_if("roles", {"protected": protected}, "epoch = :epoch", {":epoch": epoch})
