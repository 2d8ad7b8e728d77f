"""The environment of a branch brings its secret along; the agency's secrets and kept environments are out of reach."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from io import StringIO

import pytest

from deployment.__main__ import Command, main
from deployment.account import Account
from deployment.branch import KEPT, Target, suffix_of
from deployment.branch_secret import MARK, abandoned, provide, withdraw
from deployment.problem import Problem
from recovery import secret
from tests.integration.conftest import Cloud

pytestmark = pytest.mark.breaks_the_machine


@pytest.fixture
def account(cloud: Cloud) -> Iterator[Account]:
    """An account without secrets of branches, before and after."""
    account = Account(cloud.environment)
    yield account
    for suffix in suffixes(account):
        account.client("secretsmanager").delete_secret(SecretId=name_of(suffix), ForceDeleteWithoutRecovery=True)


@pytest.fixture
def run(cloud: Cloud) -> Callable[..., int]:
    """A command of `python -m deployment`, in the local cloud."""
    return lambda *arguments: main([*arguments, "--local", "--state", str(cloud.state)], os.environ)


def suffixes(account: Account) -> list[str]:
    """The suffixes that have a secret here, by the test's own names."""
    names = [secret["Name"] for secret in account.client("secretsmanager").list_secrets(MaxResults=100)["SecretList"]]
    return sorted(name.split("/")[1] for name in names if name.startswith("citizens/t-"))


def content(account: Account, suffix: str) -> str:
    return str(account.client("secretsmanager").get_secret_value(SecretId=name_of(suffix))["SecretString"])


def name_of(suffix: str) -> str:
    return f"citizens/{suffix}/database"


def test_a_secret_made_for_a_branch_passes_the_check_before_a_deploy(account: Account) -> None:
    assert provide(account, name_of("t-login"), "t-login")
    assert not secret.check(content(account, "t-login"))


def test_a_second_deploy_keeps_the_password_of_the_first(account: Account) -> None:
    provide(account, name_of("t-login"), "t-login")
    first = content(account, "t-login")
    assert not provide(account, name_of("t-login"), "t-login")
    assert content(account, "t-login") == first


def test_each_branch_has_a_password_of_its_own(account: Account) -> None:
    for suffix in ("t-one", "t-two"):
        provide(account, name_of(suffix), suffix)
    assert content(account, "t-one") != content(account, "t-two")


def test_a_branch_that_comes_back_gets_a_secret_again(account: Account) -> None:
    for _ in range(2):
        assert provide(account, name_of("t-login"), "t-login")
        withdraw(account, name_of("t-login"), "t-login")
        withdraw(account, name_of("t-login"), "t-login")
    assert suffixes(account) == []


def test_a_branch_that_is_named_like_an_environment_somebody_keeps_is_refused(account: Account) -> None:
    account.client("secretsmanager").create_secret(Name=name_of("t-alice"), SecretString="{}")
    with pytest.raises(Problem, match="give the branch another name"):
        provide(account, name_of("t-alice"), "t-alice")


def test_an_environment_that_somebody_keeps_is_left_alone_with_its_secret(
    account: Account, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deployment.__main__.destroy", lambda command: pytest.fail(f"destroyed {command.suffix}"))
    account.client("secretsmanager").create_secret(Name=name_of("t-alice"), SecretString="{}")
    assert run("destroy-branch", "--suffix", "t-alice") == 0
    assert "t-alice is left alone" in capsys.readouterr().out
    assert suffixes(account) == ["t-alice"]


def test_a_secret_made_for_another_branch_is_left_alone(account: Account) -> None:
    provide(account, name_of("t-login"), "t-login")
    withdraw(account, name_of("t-login"), "t-logout")
    assert suffixes(account) == ["t-login"]


def test_the_secret_stays_when_the_environment_cannot_be_destroyed(
    account: Account, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(command: Command) -> None:
        raise Problem(f"{command.suffix} cannot be destroyed")

    monkeypatch.setattr("deployment.__main__.destroy", cannot)
    provide(account, name_of("t-login"), "t-login")
    assert run("destroy-branch", "--suffix", "t-login") == 1
    assert suffixes(account) == ["t-login"]


@pytest.mark.parametrize("suffix", sorted(KEPT))
@pytest.mark.parametrize("command", ["provide-secret", "destroy-branch"])
def test_the_secrets_of_kept_environments_are_out_of_reach(
    command: str, suffix: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--suffix", suffix) == 1
    assert "is the agency's" in capsys.readouterr().err


def test_the_environments_of_branches_that_are_gone_are_abandoned(account: Account) -> None:
    for branch in ("t-feature/in", "t-feature/out", "t-fix"):
        provide(account, name_of(suffix_of(branch)), suffix_of(branch))
    account.client("secretsmanager").create_secret(Name=name_of("t-alice"), SecretString="{}")
    assert abandoned(account, {"main", "t-feature/in"}, "main") == (
        Target("dev", suffix_of("t-feature/out")),
        Target("dev", "t-fix"),
    )


def test_no_mark_makes_a_kept_environment_an_abandoned_one(account: Account) -> None:
    for number, kept in enumerate(sorted(KEPT)):
        account.client("secretsmanager").create_secret(
            Name=name_of(f"t-{number}"), SecretString="{}", Tags=[{"Key": MARK, "Value": kept}]
        )
    assert abandoned(account, {"trunk"}, "trunk") == ()


@pytest.mark.parametrize("listing", ["", "feature/login\n"])
def test_a_list_of_branches_that_cannot_be_complete_abandons_nothing(
    listing: str,
    account: Account,
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    provide(account, name_of("t-login"), "t-login")
    monkeypatch.setattr("sys.stdin", StringIO(listing))
    assert run("abandoned") == 1
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "lacks main" in answer.err


def test_the_commands_follow_a_branch_from_its_first_deploy_to_its_end(
    account: Account, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert run("provide-secret", "--suffix", "t-login") == 0
    monkeypatch.setattr("sys.stdin", StringIO("main\n"))
    capsys.readouterr()
    assert run("abandoned") == 0
    assert json.loads(capsys.readouterr().out) == [{"environment": "dev", "suffix": "t-login", "kept": False}]
    for _ in range(2):
        assert run("destroy-branch", "--suffix", "t-login") == 0
    assert suffixes(account) == []
