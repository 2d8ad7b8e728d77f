"""The pictures of docs/: current, whole, and of what is deployed."""

from pathlib import Path

import pytest

from recovery import promise, worst_case
from stacks import picture
from tests.unit.stacks.conftest import NESTED, SUFFIX, System, settings


@pytest.fixture(scope="module")
def pages(system: System) -> dict[Path, str]:
    return picture.pages(system, settings())


def test_every_picture_in_the_docs_is_current(pages: dict[Path, str]) -> None:
    wrong = [path.name for path, text in pages.items() if not path.exists() or path.read_text("utf-8") != text]
    assert wrong == [], "run make pictures"


def test_every_machine_that_is_deployed_has_a_page_that_the_architecture_leads_to(
    system: System, pages: dict[Path, str]
) -> None:
    drawn = [path.name for path in pages if path != picture.ARCHITECTURE]
    assert len(drawn) == len(system.of(picture.MACHINE)) == 4
    assert [name for name in drawn if f"]({name})" not in pages[picture.ARCHITECTURE]] == []


def test_a_machines_picture_shows_every_state_and_every_way_on(system: System, pages: dict[Path, str]) -> None:
    for resource in system.of(picture.MACHINE):
        machine = promise.from_templates(system.templates.values(), resource.properties["StateMachineName"])
        drawn = picture.mermaid(machine, SUFFIX)
        assert any(drawn in page for page in pages.values())
        for name, state in machine["States"].items():
            assert f'"{name}' in drawn
            for target in worst_case.successors(state):
                assert any(
                    line.startswith(f"  s{name} ") and line.endswith(f" s{target}") for line in drawn.splitlines()
                )


def test_each_nested_stack_takes_only_from_those_before_it_and_every_reference_is_told(
    system: System, pages: dict[Path, str]
) -> None:
    took = picture.taken(system, SUFFIX)
    assert tuple(took) == NESTED
    for at, stack in enumerate(NESTED):
        assert set(took[stack]) <= set(NESTED[:at])
        for source, values in took[stack].items():
            assert f"{source}: {', '.join(values)}" in pages[picture.ARCHITECTURE]
    assert took["Storage"] == {"Network": ["MountGroup", "SubnetA", "SubnetC"], "Security": ["DataKey"]}


def test_a_page_that_has_lost_the_place_for_its_picture_is_refused(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = tmp_path / "architecture.md"
    lost.write_text("# Architecture\n")
    monkeypatch.setattr(picture, "ARCHITECTURE", lost)
    with pytest.raises(ValueError, match=r"architecture\.md needs one line"):
        picture.pages(system, settings())
