"""Flat outputs are written whole, per suffix and for the newest deploy, and bad ones are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployment import outputs
from deployment.problem import Problem


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "FLAT_OUTPUTS", tmp_path / "cfn-outputs" / "flat-outputs.json")


def test_the_newest_deploy_is_read_back_and_each_suffix_keeps_its_own() -> None:
    outputs.write({"EnvironmentSuffix": "a", "X": "1"}, "a")
    outputs.write({"EnvironmentSuffix": "b", "X": "2"}, "b")
    assert outputs.read(outputs.FLAT_OUTPUTS)["X"] == "2"
    assert outputs.read(outputs.of_suffix("a"))["X"] == "1"


def test_forgetting_an_older_suffix_keeps_the_newest_outputs() -> None:
    outputs.write({"EnvironmentSuffix": "a"}, "a")
    outputs.write({"EnvironmentSuffix": "b"}, "b")
    outputs.forget("a")
    assert outputs.FLAT_OUTPUTS.exists()
    outputs.forget("b")
    assert not outputs.FLAT_OUTPUTS.exists()
    outputs.forget("b")


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "deploy first"), ("{", "is not JSON"), ('{"A": {"B": "c"}}', "not a flat object")]
)
def test_outputs_that_cannot_be_used_are_explained(content: str | None, expected: str) -> None:
    path = outputs.FLAT_OUTPUTS
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(Problem, match=expected):
        outputs.read(path)
