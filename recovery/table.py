"""The recovery table: one DynamoDB table, one partition key `id`. Records go in and out as plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Record = dict[str, Any]


def to_attribute(value: object) -> dict[str, Any]:
    """DynamoDB's form of a value; numbers keep every digit (floats by their shortest text)."""
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case int() | float() | Decimal():
            return {"N": str(value)}
        case str():
            return {"S": value}
        case Mapping():
            return {"M": {str(name): to_attribute(part) for name, part in value.items()}}
        case list() | tuple():
            return {"L": [to_attribute(part) for part in value]}
        case _:
            raise TypeError(f"A {type(value).__name__} has no form in the recovery table.")


def from_attribute(attribute: Mapping[str, Any]) -> Any:
    """The value of a DynamoDB attribute: whole numbers as int, others as float."""
    ((kind, value),) = attribute.items()
    match kind:
        case "NULL":
            return None
        case "N":
            return int(value) if value.lstrip("-").isdigit() else float(value)
        case "M":
            return {name: from_attribute(part) for name, part in value.items()}
        case "L":
            return [from_attribute(part) for part in value]
        case _:
            return value


@dataclass(frozen=True)
class Write:
    """One of several writes that happen together or not at all; `condition` is over attribute names."""

    identity: str
    record: Mapping[str, object]
    condition: str
    values: Mapping[str, object] | None = None


class RecoveryTable:
    """Reads are strongly consistent; conditional writes return whether the condition held."""

    def __init__(self, client: DynamoDBClient, name: str) -> None:
        self._client = client
        self._name = name

    def get(self, identity: str) -> Record | None:
        """The record, or None."""
        item = self._client.get_item(TableName=self._name, Key={"id": {"S": identity}}, ConsistentRead=True).get("Item")
        return {name: from_attribute(value) for name, value in item.items()} if item else None

    def put(self, identity: str, record: Mapping[str, object]) -> None:
        """Write the whole record, whatever was there."""
        self._client.put_item(TableName=self._name, Item=self._item(identity, record))

    def put_if(
        self, identity: str, record: Mapping[str, object], condition: str, values: Mapping[str, object] | None = None
    ) -> bool:
        """Write the record if the condition (over attribute names) holds; False when it does not."""
        arguments: dict[str, Any] = {}
        if values:
            arguments["ExpressionAttributeValues"] = {name: to_attribute(value) for name, value in values.items()}
        return self._held(
            lambda: self._client.put_item(
                TableName=self._name, Item=self._item(identity, record), ConditionExpression=condition, **arguments
            )
        )

    def update_if(
        self, identity: str, changes: Mapping[str, object], condition: str, values: Mapping[str, object]
    ) -> bool:
        """Set the named attributes if the condition holds; False when it does not."""
        names = {f"#{name}": name for name in changes}
        settings = {f":set_{name}": to_attribute(value) for name, value in changes.items()}
        settings |= {name: to_attribute(value) for name, value in values.items()}
        return self._held(
            lambda: self._client.update_item(
                TableName=self._name,
                Key={"id": {"S": identity}},
                UpdateExpression="SET " + ", ".join(f"#{name} = :set_{name}" for name in changes),
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=settings,
            )
        )

    def put_all_if(self, writes: Sequence[Write]) -> bool:
        """Write all of them if each one's condition holds; False, and nothing is written, when one does not or another
        writer is at the same records."""
        try:
            self._client.transact_write_items(TransactItems=[{"Put": self._put(write)} for write in writes])
        except ClientError as error:
            if error.response["Error"]["Code"] == "TransactionCanceledException":
                reasons = error.response.get("CancellationReasons", [])
                codes = {str(reason.get("Code", "None")) for reason in reasons} - {"None"}
                if codes and codes <= {"ConditionalCheckFailed", "TransactionConflict"}:
                    return False
            raise
        return True

    def _put(self, write: Write) -> Any:
        put: dict[str, Any] = {
            "TableName": self._name,
            "Item": self._item(write.identity, write.record),
            "ConditionExpression": write.condition,
        }
        if write.values:
            put["ExpressionAttributeValues"] = {name: to_attribute(value) for name, value in write.values.items()}
        return put

    def delete_if(self, identity: str, condition: str, values: Mapping[str, object]) -> bool:
        """Delete the record if the condition holds; False when it does not."""
        return self._held(
            lambda: self._client.delete_item(
                TableName=self._name,
                Key={"id": {"S": identity}},
                ConditionExpression=condition,
                ExpressionAttributeValues={name: to_attribute(value) for name, value in values.items()},
            )
        )

    def all(self, prefix: str) -> list[Record]:
        """Every record whose identity begins with `prefix`, in no order: a scan, so for people, not for functions."""
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._name,
            ConsistentRead=True,
            FilterExpression="begins_with(id, :prefix)",
            ExpressionAttributeValues={":prefix": {"S": prefix}},
        )
        return [
            {name: from_attribute(value) for name, value in item.items()} for page in pages for item in page["Items"]
        ]

    @staticmethod
    def _item(identity: str, record: Mapping[str, object]) -> dict[str, Any]:
        return {"id": {"S": identity}} | {name: to_attribute(value) for name, value in record.items()}

    @staticmethod
    def _held(write: Any) -> bool:
        try:
            write()
        except ClientError as error:
            if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
                return False
            raise
        return True
