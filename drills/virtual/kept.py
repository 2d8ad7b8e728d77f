"""The recovery table in memory, for what lives in virtual time: the same records, the same conditions, no DynamoDB."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from recovery.table import Record, RecoveryTable, from_attribute, to_attribute

_TERM = re.compile(r"attribute_not_exists\((\w+)\)|(\w+) (=|<) (:\w+)")


class Kept(RecoveryTable):
    """A table that is a dictionary. Knows the conditions that this program uses: terms joined by OR."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}

    def get(self, identity: str) -> Record | None:
        """The record, or None."""
        return copy.deepcopy(self.records.get(identity))

    def put(self, identity: str, record: Mapping[str, object]) -> None:
        """Write the whole record."""
        # By way of DynamoDB's form, which keeps what it keeps and nothing else
        self.records[identity] = {"id": identity} | {n: from_attribute(to_attribute(v)) for n, v in record.items()}

    def put_if(
        self, identity: str, record: Mapping[str, object], condition: str, values: Mapping[str, object] | None = None
    ) -> bool:
        """Write the record if the condition holds."""
        if not self.holds(identity, condition, values or {}):
            return False
        self.put(identity, record)
        return True

    def update_if(
        self, identity: str, changes: Mapping[str, object], condition: str, values: Mapping[str, object]
    ) -> bool:
        """Set the named attributes if the condition holds."""
        if not self.holds(identity, condition, values):
            return False
        found = {name: value for name, value in self.records.get(identity, {}).items() if name != "id"}
        self.put(identity, {**found, **changes})
        return True

    def delete_if(self, identity: str, condition: str, values: Mapping[str, object]) -> bool:
        """Delete the record if the condition holds."""
        if not self.holds(identity, condition, values):
            return False
        self.records.pop(identity, None)
        return True

    def all(self, prefix: str) -> list[Record]:
        """Every record whose identity begins with `prefix`."""
        return [copy.deepcopy(found) for name, found in self.records.items() if name.startswith(prefix)]

    def holds(self, identity: str, condition: str, values: Mapping[str, Any]) -> bool:
        """Whether a condition holds of a record; ValueError for one that is of another form."""
        record = self.records.get(identity, {})
        found = False
        for term in condition.split(" OR "):
            match = _TERM.fullmatch(term.strip())
            if match is None:
                raise ValueError(f"The condition {term!r} is of no form that is known here.")
            absent, name, sign, value = match.groups()
            if absent is not None:
                found = found or absent not in record
            elif name in record:
                wanted = values[value]
                found = found or (record[name] == wanted if sign == "=" else record[name] < wanted)
        return found
