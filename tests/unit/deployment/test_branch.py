"""A branch has an environment of its own, under a suffix that is valid, stable and nobody else's."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployment import branch
from deployment.branch import KEPT, Target, deployed_for, gone_with, suffix_of
from deployment.cdk import ROOT
from stacks.settings import load

# What people call branches, and anything else that Git might hold.
NAMES = st.one_of(
    st.text(min_size=1, max_size=80),
    st.from_regex(r"(feature|fix|Release)/[A-Za-z0-9._-]{1,60}", fullmatch=True),
    st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True),
)


@given(NAMES)
@example("-")
@example("日本")
@example("a" * 250)
@example("eleven-char-then-more")
@example("\u212a")
def test_every_branch_has_a_suffix_that_the_settings_accept(name: str) -> None:
    assert load({"environmentSuffix": suffix_of(name)}).environment_suffix == suffix_of(name)


@given(NAMES, NAMES)
def test_different_branches_have_different_suffixes(one: str, other: str) -> None:
    assert (suffix_of(one) == suffix_of(other)) == (one == other)


@given(st.from_regex(r"[a-z0-9]+([-_/. A-Z]+[a-z0-9]+)*", fullmatch=True), st.randoms())
def test_branches_that_read_alike_have_different_suffixes(name: str, chance: random.Random) -> None:
    alike = "".join(chance.choice("-_/. ") if letter in "-_/. " else letter.swapcase() for letter in name)
    assert (suffix_of(alike) == suffix_of(name)) == (alike == name)


@given(NAMES)
def test_no_branch_can_take_the_name_that_another_was_given(name: str) -> None:
    given_name = suffix_of(name)
    assert given_name == name or suffix_of(given_name) != given_name


def test_ten_thousand_branches_of_one_ticket_have_as_many_suffixes() -> None:
    names = {f"feature/CITIZENS-1234-take-{number}" for number in range(10_000)}
    assert len({suffix_of(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("main", "main"),
        ("login", "login"),
        ("a-name-of-20-letters", "a-name-of-20-letters"),
        ("feature/login", "feature-log-df7c7aeb"),
        ("Main", "main-eb814be3"),
        ("prod", "prod-6754af96"),
        ("日本", "branch-cf2abf0c"),
        ("release-20261123", "release-202-6d3480ed"),
    ],
)
def test_suffixes_stay_what_they_were_in_the_first_release(name: str, expected: str) -> None:
    assert suffix_of(name) == expected


@pytest.mark.parametrize("kept", sorted(KEPT - {"main"}))
def test_a_branch_named_like_a_kept_environment_does_not_get_it(kept: str) -> None:
    assert re.fullmatch(rf"{kept}-[0-9a-f]{{8}}", suffix_of(kept))


def test_main_deploys_its_own_environment_and_staging() -> None:
    assert deployed_for("main", "main") == (Target("dev", "main"), Target("staging", "staging"))
    assert deployed_for("trunk", "trunk") == (Target("dev", "trunk"), Target("staging", "staging"))


@given(NAMES.filter(lambda name: name != "main"))
def test_another_branch_deploys_what_its_end_destroys_and_nothing_that_is_kept(name: str) -> None:
    assert deployed_for(name, "main") == gone_with(name, "main")
    assert all(target.suffix not in KEPT for target in gone_with(name, "main"))


@pytest.mark.parametrize(("name", "default"), [("main", "main"), ("main", "trunk"), ("trunk", "trunk")])
def test_the_end_of_a_default_branch_or_of_main_destroys_nothing(name: str, default: str) -> None:
    assert gone_with(name, default) == ()


def test_the_program_runs_on_python_alone_and_prints_a_matrix() -> None:
    # -I -S: without the environment's packages, as in a pipeline that has set nothing up yet
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from deployment.branch import main; "
    run = "sys.exit(main(['deployed', '--branch', 'main']))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program + run], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        {"environment": "dev", "suffix": "main", "kept": True},
        {"environment": "staging", "suffix": "staging", "kept": True},
    ]


def test_a_matrix_is_one_line_so_that_it_can_be_an_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert branch.main(["gone", "--branch", "a\nmatrix=[]"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_an_empty_name_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert branch.main(["suffix", "--branch", ""]) == 1
    assert capsys.readouterr().err == "The branch name is empty: name a branch, for example feature/login.\n"
