"""What all tests share: the choice of what they run against, and which of them stay together."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# The files whose tests use the one deployed system, the last of which loses its primary and destroys it.
DEPLOYED = (
    "test_alarms.py",
    "test_drills_on_aws.py",
    "test_least_privilege.py",
    "test_log_alarms.py",
    "test_preflight.py",
    "test_restore.py",
    "test_workflow.py",
)

# So many tests may need a second run (`--reruns`) before the whole run counts as failed.
MAY_RUN_AGAIN = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--outputs",
        type=Path,
        default=None,
        help="flat outputs of a deployed system (a real account's); without it one is deployed into a local cloud",
    )
    parser.addoption(
        "--permissions",
        type=Path,
        default=None,
        help="a file for what every role asked for in the integration tests' local cloud",
    )
    parser.addoption("--soak", action="store_true", help="faults by the hundred and data by the gigabyte")


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Shares the tests out by group. Not by `xdist_group`: pytest 9.2 no longer reads what xdist 3.8 writes."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """What stays on one worker: the stacks' tests with their two syntheses, the deployed system, any other file."""
    file = PurePosixPath(nodeid.split("::", 1)[0])
    if file.parent.name == "stacks":
        return "stacks"
    return "deployed" if file.name in DEPLOYED else str(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Whatever --dist says."""
    return Groups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spare a real account what breaks things; name a file that would deploy a system of its own."""
    for item in items:
        # By a mark, not in a fixture: fixtures of the session would start a local cloud before that.
        if config.getoption("--outputs") is not None and item.get_closest_marker("breaks_the_machine"):
            item.add_marker(pytest.mark.skip(reason="needs to break what only the local cloud lets us break"))
        # Unit tests have fixtures of that name which deploy nothing
        integrates = "integration" in item.path.parts
        if integrates and "deployed" in getattr(item, "fixturenames", ()) and item.path.name not in DEPLOYED:
            raise pytest.UsageError(f"{item.path.name} uses the deployed system: add it to DEPLOYED in {__file__}.")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A machine that is busy may make a test or two late; more than that is no accident."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return
    again = len(terminal.stats.get("rerun", ()))
    if again > MAY_RUN_AGAIN and session.exitstatus == pytest.ExitCode.OK:
        terminal.write_line(f"{again} tests passed only when run again; {MAY_RUN_AGAIN} are tolerated.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
