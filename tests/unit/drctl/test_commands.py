"""Every command of drctl, found by walking the program: documented, with --json, and ending with a documented code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from drctl.__main__ import main
from drctl.place import locate
from drctl.program import COMMON
from tests.command_lines import commands, parsed

COMMANDS = dict(commands())
NEEDED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("logs",): ("archive",),
    ("look",): ("slots",),
    ("pause",): ("--minutes", "5", "--reason", "a test"),
    ("override",): ("--accept", "lag", "--reason", "a test"),
    ("exercise",): ("replica",),
    ("restore",): ("--before-transaction", "1:0/1"),
    ("log", "roll-forward"): ("--host", "nowhere", "--before-transaction", "1:0/1"),
    ("log", "hold"): ("--name", "a", "--reason", "a test"),
    ("log", "release"): ("--name", "a", "--yes", "x"),
}
"""What a command cannot do without."""
ELSEWHERE = {("drill",), ("preflight",)}
"""A local cloud of its own; a synthesis of ten seconds: both have integration tests."""
PAGE = (Path(__file__).parents[3] / "docs" / "drctl.md").read_text(encoding="utf-8")
DOCUMENTED = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, flags=re.MULTILINE)}


def words(command: tuple[str, ...]) -> str:
    return " ".join(command)


@pytest.mark.parametrize("command", COMMANDS, ids=words)
def test_a_command_is_on_the_page_and_says_what_it_does(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(rf"`{words(command)}[` ]", PAGE)
    assert main([*command, "--help"], {}) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


@pytest.mark.parametrize("command", COMMANDS, ids=words)
def test_a_command_takes_the_programs_options_before_and_after_it(command: tuple[str, ...]) -> None:
    common = [part for name, many in COMMON.items() for part in (name, *["x"] * many)]
    given = parsed([*command, *NEEDED.get(command, ())])
    for arguments in ([*common, *command, *NEEDED.get(command, ())], [*command, *NEEDED.get(command, ()), *common]):
        found = parsed(arguments)
        assert found.keys() == given.keys()
        run = found["run"]
        assert (run.as_json, run.is_local, run.suffix) == (True, True, "x")


@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in ELSEWHERE], ids=words)
def test_without_any_aws_a_command_ends_with_a_documented_code_and_without_a_traceback(
    command: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "environment").write_text(
        "LOCAL_CLOUD_URL=https://127.0.0.1:1/_local\nAWS_ENDPOINT_URL=https://127.0.0.1:1\nAWS_ACCESS_KEY_ID=a\n"
        "AWS_SECRET_ACCESS_KEY=b\nAWS_CA_BUNDLE=\n",
        encoding="utf-8",
    )
    locate({}, path=None, suffix="x", is_local=True, state=tmp_path)
    where = ("--local", "--state", str(tmp_path), "--suffix", "x")
    code = main([*command, *NEEDED.get(command, ()), "--json", *where], {})
    out, err = capfd.readouterr()
    assert code in DOCUMENTED - {0, 2}
    assert "Traceback" not in out + err
    if out:
        json.loads(out)
    if code == 1:
        assert err.strip()


def test_the_page_names_no_other_codes_than_the_help() -> None:
    assert {0, 1, 2, 3, 4, 5, 130} == DOCUMENTED
