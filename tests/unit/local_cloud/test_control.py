import time

import pytest

from local_cloud.control import ControlError, fault_from, host_values_from, lifetime_from, merged_delays
from local_cloud.fleet import Delays
from tests.unit.local_cloud.running_cloud import RunningCloud


def test_the_status_names_the_process_and_the_instances(cloud: RunningCloud) -> None:
    status, answer = cloud.control("GET", "/status")
    assert status == 200
    assert answer["pid"] > 1
    assert isinstance(answer["instances"], dict)


def test_delays_are_merged_with_those_that_hold(cloud: RunningCloud) -> None:
    _, before = cloud.control("GET", "/delays")
    status, changed = cloud.control("PUT", "/delays", {"promotion_seconds": 0.2})
    assert (status, changed) == (200, before | {"promotion_seconds": 0.2})
    cloud.control("PUT", "/delays", before)


def test_schedules_can_be_fired(cloud: RunningCloud) -> None:
    assert cloud.control("POST", "/schedules/fire") == (200, {"fired": []})


@pytest.mark.parametrize("body", [{}, {"advance_seconds": -1}, {"advance_seconds": True}, {"advance_seconds": "day"}])
def test_the_clock_moves_forward_by_seconds(cloud: RunningCloud, body: dict[str, object]) -> None:
    ahead = cloud.control("PUT", "/clock", {"advance_seconds": 0})[1]["now"] - time.time()
    status, answer = cloud.control("PUT", "/clock", body)
    assert (status, answer["error"]) == (400, "advance_seconds is a number of seconds, 0 or more")
    assert abs(cloud.control("PUT", "/clock", {"advance_seconds": 0})[1]["now"] - time.time() - ahead) < 5


@pytest.mark.parametrize("what", ["lose", "kill", "endpoint", "certificate"])
def test_an_unknown_instance_is_not_found(cloud: RunningCloud, what: str) -> None:
    assert cloud.control("POST", f"/rds/nobody/{what}", {"fault": "cut", "days": 3})[0] == 404
    assert cloud.control("PUT", "/rds/nobody/host", {"CPUUtilization": 3})[0] == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"unknown": 1}', b'{"reboot_seconds": -1}'])
def test_nonsense_is_refused_with_a_sentence(cloud: RunningCloud, body: bytes) -> None:
    status, answer = cloud.control("PUT", "/delays", body)
    assert status == 400
    assert answer["error"]


@pytest.mark.parametrize(
    "told", [{"Mood": 3}, {"CPUUtilization": -1}, {"CPUUtilization": True}, {"FreeableMemory": "3"}]
)
def test_a_host_shows_numbers_of_what_hosts_have(told: dict[str, object]) -> None:
    with pytest.raises(ControlError):
        host_values_from(told)


@pytest.mark.parametrize("told", [{}, {"days": 0}, {"days": -1}, {"days": True}, {"days": 1e9}, {"days": "soon"}])
def test_a_certificate_lasts_a_number_of_days(told: dict[str, object]) -> None:
    with pytest.raises(ControlError, match="days is a number"):
        lifetime_from(told)


def test_an_unknown_path_is_not_found(cloud: RunningCloud) -> None:
    assert cloud.control("GET", "/nothing")[0] == 404


def test_a_delay_is_a_number_of_seconds() -> None:
    assert merged_delays(Delays(), {"creation_seconds": 1}).creation_seconds == 1.0
    with pytest.raises(ControlError, match="number of seconds"):
        merged_delays(Delays(), {"creation_seconds": True})


@pytest.mark.parametrize("request_", [{}, {"fault": "cut", "from": "mars"}, {"fault": "slow", "delay_ms": -1}])
def test_a_fault_has_a_kind_an_origin_and_a_delay(request_: dict[str, object]) -> None:
    with pytest.raises(ControlError):
        fault_from(request_)
