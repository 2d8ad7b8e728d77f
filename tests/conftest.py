"""What all tests share: the choice of what they run against, and which of them stay together."""

from __future__ import annotations

import ast
from pathlib import Path, PurePosixPath
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.examples import FAST, FAST_EXAMPLES

# The files whose tests use the one deployed system, the last of which loses its primary and destroys it.
DEPLOYED = (
    "test_least_privilege.py",
    "test_preflight.py",
    "test_restore.py",
    "test_workflow.py",
)

# Those that deploy one of their own, because they move its clock or change its roles.
OF_THEIR_OWN = ("test_alarms.py", "test_drills_on_aws.py", "test_log_alarms.py")

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
    parser.addoption(
        "--fast", action="store_true", help="only tests of pure rules: no PostgreSQL, no synthesis, no emulator"
    )
    parser.addoption("--soak", action="store_true", help="faults by the hundred and data by the gigabyte")


# What the inner loop leaves out: folders whose tests synthesise or emulate, and files that ask for such a fixture.
SLOW_FOLDERS = ("stacks", "local_cloud", "integration")
SLOW_FIXTURES = frozenset(
    {
        *("aws", "cloud", "deployed", "dynamodb", "members", "new_pair", "pair", "protected", "rehearsal"),
        *("secrets_manager", "system", "table"),
    }
)

SLOW_MODULES = ("aws_cdk", "local_cloud", "moto", "stacks.disaster_recovery", "tests.browser", "tests.unit.stacks")


def pytest_configure(config: pytest.Config) -> None:
    """No example has a deadline, which a busy machine would miss; the inner loop tries fewer examples."""
    hypothesis.settings.register_profile("whole", deadline=None)
    hypothesis.settings.register_profile(FAST, deadline=None, max_examples=FAST_EXAMPLES)
    hypothesis.settings.load_profile(FAST if config.getoption("--fast") else "whole")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --fast a file that starts something is not even imported."""
    if not config.getoption("--fast"):
        return None
    if collection_path.is_dir():
        return True if collection_path.name in SLOW_FOLDERS else None
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    return True if starts_something(collection_path.read_text(encoding="utf-8")) else None


def starts_something(source: str) -> bool:
    """Whether a test file asks for a fixture that starts something, or imports a browser, emulator or synthesis."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(args=ast.arguments(args=given)):
                if SLOW_FIXTURES & {each.arg for each in given}:
                    return True
            case ast.ImportFrom(module=str(name)) | ast.Import(names=[ast.alias(name=name)]):
                if name.startswith(SLOW_MODULES):
                    return True
            case _:
                pass
    return False


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
        if (
            integrates
            and "deployed" in getattr(item, "fixturenames", ())
            and item.path.name not in (*DEPLOYED, *OF_THEIR_OWN)
        ):
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
