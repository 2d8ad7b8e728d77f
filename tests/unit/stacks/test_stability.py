"""A change of the templates shows in review, and one that would replace data shows by itself."""

import difflib
from pathlib import Path

import pytest

from tests.unit.stacks import snapshot
from tests.unit.stacks.conftest import NESTED, System

LONGEST_DIFFERENCE = 120


def difference(kept: Path, now: str, name: str) -> str:
    before = kept.read_text().splitlines() if kept.exists() else []
    lines = list(difflib.unified_diff(before, now.splitlines(), f"{name} as kept", f"{name} now", n=2, lineterm=""))
    more = [f"... and {len(lines) - LONGEST_DIFFERENCE} lines more"] if len(lines) > LONGEST_DIFFERENCE else []
    return "\n".join([*lines[:LONGEST_DIFFERENCE], *more])


@pytest.mark.parametrize("name", ["parent", *NESTED])
def test_a_template_is_as_kept(system: System, name: str) -> None:
    path = snapshot.FOLDER / f"{name}.json"
    changed = difference(path, snapshot.snapshots(system)[path], name)
    assert not changed, f"The template changed; if that is meant, run `make snapshots` and commit.\n{changed}"


def test_no_resource_that_holds_data_would_be_replaced(system: System) -> None:
    changed = difference(snapshot.STATEFUL_LIST, snapshot.stateful_text(system), "stateful resources")
    assert not changed, (
        "A deploy over an existing environment would or may replace a resource that holds data, and lose it. If that "
        f"is meant, run `make snapshots STATEFUL=yes` and tell how the data is moved.\n{changed}"
    )


def test_everything_that_holds_data_is_on_the_list_with_what_replaces_it(system: System) -> None:
    listed = snapshot.replacing(system)
    assert {"Database/Member1", "Database/Member2", "Storage/TransactionLog", "Storage/RecoveryTable"} <= set(listed)
    assert {"DBInstanceIdentifier", "KmsKeyId", "MasterUsername", "DBName"} <= set(listed["Database/Member1"])
    assert "SourceDBInstanceIdentifier" in listed["Database/Member2"]
    assert listed["Storage/Vault"]["BackupVaultName"] == "citizens-unit"
    assert len(listed) > 20


def test_protect_can_be_turned_on_without_replacing_anything(system: System, protected: System) -> None:
    assert snapshot.replacing(system) == snapshot.replacing(protected)


def test_a_snapshot_reads_like_a_template_without_what_differs_at_each_build() -> None:
    template = {
        "Metadata": {"aws:cdk:path": "x"},
        "Key": f"{'0a' * 32}.zip",
        "Arn": {"Fn::Join": ["", ["arn:", {"Ref": "AWS::AccountId"}, ":", {"Fn::GetAtt": ["Key", "Arn"]}]]},
        "Body": {"Fn::Join": ["", ['{"a":"', {"Ref": "B"}, '"}']]},
        "Resolved": "{{resolve:secretsmanager:x}}",
    }
    assert snapshot.readable(template) == {
        "Key": "<asset>.zip",
        "Arn": "arn:${AWS::AccountId}:${Key.Arn}",
        "Body": {"JSON": {"a": "${B}"}},
        "Resolved": "{{resolve:secretsmanager:x}}",
    }
