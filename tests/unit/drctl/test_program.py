"""The program itself: where options may stand, which environment is meant, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployment.problem import Problem
from drctl import failover, log
from drctl.__main__ import main
from drctl.asking import Answer
from drctl.place import locate
from drctl.program import EXIT_CODES, with_common_first
from recovery.prediction import data_at_risk
from tests.unit.drctl.test_status import NOW, WELL, seen, table


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["status", "--json"], ["--json", "status"]),
        (["log", "list", "--suffix", "dev", "--since", "x"], ["--suffix", "dev", "log", "list", "--since", "x"]),
        (["--outputs=a.json", "status"], ["--outputs=a.json", "status"]),
        (["status", "--outputs"], ["--outputs", "status"]),
        (["drill", "--", "--json"], ["drill", "--", "--json"]),
        ([], []),
    ],
)
def test_the_programs_own_options_may_stand_anywhere(given: list[str], ordered: list[str]) -> None:
    assert with_common_first(given) == ordered


def written(path: Path, **values: str) -> Path:
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_outputs_of_the_local_cloud_never_lead_to_a_real_account(tmp_path: Path) -> None:
    given = written(tmp_path / "o.json", EnvironmentSuffix="dev", Member1Endpoint="127.0.0.9")
    with pytest.raises(Problem, match="local cloud is not running"):
        locate({"AWS_ACCESS_KEY_ID": "real"}, path=given, suffix=None, is_local=False, state=tmp_path)
    (tmp_path / "environment").write_text("LOCAL_CLOUD_URL=https://127.0.0.1/_local\n", encoding="utf-8")
    place = locate({"AWS_ACCESS_KEY_ID": "real"}, path=given, suffix=None, is_local=False, state=tmp_path)
    assert place.account.is_local
    assert "AWS_ACCESS_KEY_ID" not in place.account.environment


def test_outputs_of_aws_are_refused_for_the_local_cloud(tmp_path: Path) -> None:
    given = written(tmp_path / "o.json", EnvironmentSuffix="dev", Member1Endpoint="x.eu-central-2.rds.amazonaws.com")
    with pytest.raises(Problem, match="on AWS, not in the local cloud"):
        locate({}, path=given, suffix=None, is_local=True, state=tmp_path)


def test_a_suffix_that_nobody_knows_and_nobody_can_be_asked_about_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(Problem, match=r"no outputs of nosuch here \(outputs of: .*no credentials"):
        locate({}, path=None, suffix="nosuch", is_local=False, state=tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert locate({}, path=None, suffix="nosuch", is_local=False, state=tmp_path).suffix == "nosuch"


def test_the_members_endpoints_are_read_from_the_uri(tmp_path: Path) -> None:
    given = written(
        tmp_path / "o.json",
        EnvironmentSuffix="dev",
        Member1Endpoint="one",
        WriterUri="postgresql://one:6000,two:7000/citizens?target_session_attrs=read-write",
    )
    found = locate({}, path=given, suffix=None, is_local=False, state=tmp_path).endpoints
    assert {name: str(each) for name, each in found.items()} == {
        "citizens-1-dev": "one:6000",
        "citizens-2-dev": "two:7000",
    }


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (["status", "--suffix", "NOT GOOD"], "is malformed", 1),
        (["status", "--suffix", ""], "suffix", 1),
        (["status", "--outputs", "/nowhere.json"], "nowhere.json was not found", 1),
        (["no-such-command"], "No such command", 2),
        (["pause", "--minutes", "soon"], "--minutes", 2),
        (["pause", "--reason", "x", "--suffix", "x"], "A pause needs an end", 1),
        (["override", "--minutes", "soon"], "--minutes", 2),
        (["restore", "--suffix", "x"], "Say where to stop", 1),
        (["log", "roll-forward", "--host", "h", "--suffix", "x"], "Say where to stop", 1),
    ],
)
def test_bad_input_is_one_sentence_and_an_exit_code(
    arguments: list[str], sentence: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, {}) == code
    said = capfd.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


def test_the_help_and_the_page_tell_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], {}) == 0
    shown = " ".join(capsys.readouterr().out.split())
    page = (Path(__file__).parents[3] / "docs" / "drctl.md").read_text(encoding="utf-8")
    assert EXIT_CODES in shown
    for code in ("0", "1", "2", "3", "4", "5", "130"):
        assert f"| {code} |" in page


def answers(**changes: object) -> dict[str, Answer]:
    return {name: Answer(value) for name, value in {**WELL, **changes}.items()}


def test_a_failover_of_a_primary_that_works_is_not_started() -> None:
    found = failover.preview(answers(), NOW, (), "kim", "")
    assert (found.decision.action, found.may_start) == ("stand_by", False)


def test_a_failover_says_who_takes_over_and_what_may_be_lost() -> None:
    lost = table(observations=(seen("a", primary=False, lag=4.0), seen("c", primary=False, lag=3.0)))
    found = failover.preview(answers(**{"recovery table": lost}), NOW, (), "kim", "")
    assert found.may_start
    assert found.since == NOW - 12, "the grace counts from the first failed probe"
    assert found.missing == data_at_risk((4.0, 0.5)) == 0.5
    assert "citizens-2-dev in place of citizens-1-dev" in found.as_text()
    assert "about 0.5 s of transactions" in found.as_text()


def test_what_is_accepted_changes_what_the_arbiter_would_do_and_needs_a_reason() -> None:
    behind = table(observations=(seen("a", primary=False, lag=4000.0), seen("c", primary=False, lag=4000.0)))
    seen_so = answers(**{"recovery table": behind, "RDS": {**WELL["RDS"], "citizens-1-dev": lost_instance()}})
    assert failover.preview(seen_so, NOW, (), "kim", "").decision.action == "refuse"
    assert failover.preview(seen_so, NOW, ("lag",), "kim", "the flood").decision.action == "promote"
    with pytest.raises(Problem, match="needs a --reason"):
        failover.preview(seen_so, NOW, ("lag",), "kim", " ")
    with pytest.raises(Problem, match="hope cannot be accepted"):
        failover.preview(seen_so, NOW, ("hope",), "kim", "x")


def lost_instance() -> object:
    from drctl.sources import InstanceView
    from recovery.rds import MemberStatus

    return InstanceView(MemberStatus("failed"))


def test_a_failover_without_the_recovery_table_says_that_nobody_can_tell() -> None:
    blind = {**answers(), "recovery table": Answer(trouble="no answer within 3.5 s")}
    with pytest.raises(Problem, match=r"the recovery table says nothing \(no answer within 3.5 s\)"):
        failover.preview(blind, NOW, (), "kim", "")


def test_the_logs_functions_are_given_their_own_longest_time() -> None:
    assert log.FUNCTION_SECONDS > 900
