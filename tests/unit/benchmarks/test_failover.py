"""Failover beside Patroni's: what is kept, what adds up, and what Patroni is asked for."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.failover import OURS, PATRONI_DEFAULT, PATRONI_TUNED, Run, described, keep, kept, results
from benchmarks.patroni import (
    DEFAULT,
    TIGHTEST,
    Node,
    PatroniPair,
    Timing,
    configuration,
    free_ports,
    is_protected,
    leader_of,
)
from deployment.cdk import ROOT
from deployment.problem import Problem

RUN = Run(OURS, "probe interval 2 s", 9.0, 0.2, 100, 1)
SETTINGS = {OURS: RUN.settings, PATRONI_DEFAULT: "ttl 30", PATRONI_TUNED: "ttl 20"}
LEADER = {"name": "node0", "role": "leader", "state": "running", "timeline": 1}
REPLICA = {"name": "node1", "role": "replica", "state": "streaming", "timeline": 1, "lag": 0}


def of(system: str, *seconds: float) -> list[Run]:
    return [replace(RUN, system=system, settings=SETTINGS[system], seconds=each) for each in seconds]


def test_runs_of_several_evenings_add_up_and_others_settings_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "reports" / "runs.json"
    assert kept(file, SETTINGS) == []
    runs = [*of(OURS, 9.0, 8.0), *of(PATRONI_DEFAULT, 27.0)]
    keep(file, runs)
    assert kept(file, SETTINGS) == runs
    assert kept(file, {**SETTINGS, OURS: "probe interval 1 s"}) == runs[2:], "made with other settings"
    assert [each.name for each in file.parent.iterdir()] == ["runs.json"], "written in one step"


@pytest.mark.parametrize("text", ["", "{", '[{"system": "ours"}]', "[1]"])
def test_a_file_that_holds_no_runs_is_said_to(tmp_path: Path, text: str) -> None:
    file = tmp_path / "runs.json"
    file.write_text(text)
    with pytest.raises(Problem, match="does not hold runs of this benchmark"):
        kept(file, SETTINGS)


def test_a_ratio_is_of_the_medians_and_says_what_was_lost_with_which_settings() -> None:
    runs = [*of(OURS, 8.0, 9.0, 30.0), *of(PATRONI_DEFAULT, 20.0, 30.0, 40.0), *of(PATRONI_TUNED, 18.0)]
    found = results(runs)
    assert (found["failover_vs_patroni_default"].median, found["failover_vs_patroni_default"].target) == (0.3, 0.35)
    assert found["failover_vs_patroni_default"].runs == (0.4, 0.3, 0.75)
    assert found["failover_vs_patroni_default"].kept
    assert (found["failover_vs_patroni_tuned"].median, found["failover_vs_patroni_tuned"].target) == (0.5, 1.0)
    note = found["failover_vs_patroni_default"].note
    assert "ours (probe interval 2 s): median 9.0 s (8.0–30.0), 3 runs, 3 of 300 acknowledged" in note
    assert "patroni-default (ttl 30)" in note


def test_nothing_is_compared_with_what_was_not_measured() -> None:
    assert results([]) == {}
    assert results(of(PATRONI_DEFAULT, 20.0)) == {}
    assert results([*of(OURS, 9.0), *of(PATRONI_TUNED, 18.0)]).keys() == {"failover_vs_patroni_tuned"}


@given(st.lists(st.floats(0.1, 120), min_size=1, max_size=20), st.lists(st.floats(0.1, 120), min_size=1, max_size=20))
def test_whoever_is_slower_in_every_run_is_not_the_faster_one(ours: list[float], theirs: list[float]) -> None:
    found = results([*of(OURS, *ours), *of(PATRONI_TUNED, *theirs)])["failover_vs_patroni_tuned"]
    if min(ours) > max(theirs) * 1.001:
        assert not found.kept
    if max(ours) <= min(theirs):
        assert found.kept
    assert len(described(of(OURS, *ours)).splitlines()) == 1


def test_patronis_own_rule_for_its_times_is_kept() -> None:
    for timing in (DEFAULT, TIGHTEST):
        assert timing.loop_wait + 2 * timing.retry_timeout <= timing.ttl
    with pytest.raises(ValueError, match="loop_wait"):
        Timing(ttl=20, loop_wait=10, retry_timeout=10, primary_start_timeout=0)
    assert str(TIGHTEST) == "ttl 20, loop_wait 1, retry_timeout 3, primary_start_timeout 0"


def test_the_agent_gets_the_times_as_it_starts_the_cluster_and_stays_asynchronous(tmp_path: Path) -> None:
    node = Node("node0", tmp_path, 5001, 8001)
    given_ = configuration(node, TIGHTEST, 2379, Path("/bin"), tmp_path)
    dcs = given_["bootstrap"]["dcs"]
    assert {name: dcs[name] for name in ("ttl", "loop_wait", "retry_timeout", "primary_start_timeout")} == {
        "ttl": 20,
        "loop_wait": 1,
        "retry_timeout": 3,
        "primary_start_timeout": 0,
    }
    assert "synchronous_mode" not in dcs
    assert given_["postgresql"]["data_dir"] == str(node.data)


def test_a_pair_is_protected_when_a_replica_streams_and_lacks_nothing() -> None:
    assert is_protected({"members": [LEADER, REPLICA]})
    assert leader_of({"members": [REPLICA, LEADER]}) == "node0"
    for members in (
        [],
        [LEADER],
        [REPLICA],
        [LEADER, {**REPLICA, "state": "starting"}],
        [LEADER, {**REPLICA, "lag": 1}],
        [LEADER, {**REPLICA, "lag": "unknown"}],
        [{**LEADER, "state": "stopped"}, REPLICA],
    ):
        assert not is_protected({"members": members})
    assert leader_of({}) is None


def test_ports_are_free_and_different() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_what_is_not_installed_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.patroni.PROGRAMS", ROOT / "build" / "nowhere")
    with pytest.raises(Problem, match="run make bench-failover, which installs it"):
        PatroniPair(tmp_path, DEFAULT)
