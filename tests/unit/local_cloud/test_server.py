import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local_cloud import server, sweep
from local_cloud.__main__ import main
from local_cloud.server import LocalCloudOptions
from tests.unit.local_cloud.running_cloud import RunningCloud, eventually


@pytest.fixture
def state(open_folder: Path) -> Iterator[Path]:
    folder = open_folder / "short-lived"
    yield folder
    assert main(["down", "--state", str(folder)]) == 0
    assert not folder.exists()


def options(state: Path) -> LocalCloudOptions:
    return LocalCloudOptions(state, "127.0.0.1", 4711, "111122223333", "eu-central-2", "10.60.0.10", plain_port=4712)


def environment_of(state: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (state / "environment").read_text().splitlines())


def up(state: Path, *arguments: str) -> int:
    return main(["up", "--state", str(state), "--detach", *arguments])


def test_two_local_clouds_run_at_once(cloud: RunningCloud, state: Path) -> None:
    assert up(state, "--account", "444455556666") == 0
    other = RunningCloud(state, environment_of(state))
    assert other.client("sts").get_caller_identity()["Account"] == "444455556666"
    assert cloud.client("sts").get_caller_identity()["Account"] == "111122223333"


def test_a_second_start_says_that_it_runs(cloud: RunningCloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert up(cloud.state) == 0
    assert f"already running at {cloud.environment['AWS_ENDPOINT_URL']}" in capsys.readouterr().out


def test_the_status_is_printed(cloud: RunningCloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--state", str(cloud.state)]) == 0
    assert json.loads(capsys.readouterr().out)["endpoint"] == cloud.environment["AWS_ENDPOINT_URL"]


def test_without_a_local_cloud_there_is_no_status(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--state", str(state)]) == 1
    assert main(["unsupported", "--state", str(state)]) == 1
    assert "not running" in capsys.readouterr().err


def test_stopping_what_does_not_run_is_no_error(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--state", str(state)]) == 0
    assert "was not running" in capsys.readouterr().out


def test_after_a_kill_of_the_server_nothing_is_left_and_it_starts_again(state: Path) -> None:
    assert up(state) == 0
    running = RunningCloud(state, environment_of(state))
    running.client("rds").create_db_instance(
        DBInstanceIdentifier="orphan",
        DBInstanceClass="db.t4g.medium",
        Engine="postgres",
        AllocatedStorage=20,
        MasterUsername="somebody",
        MasterUserPassword="Some-Password-1",
    )
    running.becomes("orphan", lambda instance: instance["DBInstanceStatus"] == "available")
    status = running.control("GET", "/status")[1]
    [postmaster] = status["instances"]["orphan"]["processes"]
    os.kill(status["pid"], signal.SIGKILL)
    eventually(lambda: sweep.running_server(state) is None)
    assert up(state) == 0
    eventually(lambda: not psutil.pid_exists(postmaster) or psutil.Process(postmaster).status() == "zombie")
    again = RunningCloud(state, environment_of(state))
    assert again.control("GET", "/status")[1]["instances"] == {}


def test_ctrl_c_in_the_foreground_leaves_no_process_and_no_file(state: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "local_cloud", "up", "--state", str(state)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while "ready" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "nothing left behind" in output
    assert not state.exists()
    assert not [child for child in children if child.is_running()]


def test_a_start_that_fails_shows_the_end_of_its_log(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert up(state) == 1
    assert "did not start" in capsys.readouterr().err
    assert (state / "log").exists()


def test_an_account_has_twelve_digits(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert up(state, "--account", "12") == 2
    assert "12 digits" in capsys.readouterr().err


def test_a_process_id_that_belongs_to_another_program_by_now_is_left_alone(state: Path) -> None:
    state.mkdir()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    record = {"pid": other.pid, "created": psutil.Process(other.pid).create_time() - 10, "endpoint": "http://nowhere"}
    (state / "process.json").write_text(json.dumps(record))
    assert sweep.running_server(state) is None
    assert not sweep.stop(state)
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_server_that_does_not_obey_is_killed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "STOP_SECONDS", 0.3)
    state.mkdir()
    source = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    stubborn = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    record = {"pid": stubborn.pid, "created": psutil.Process(stubborn.pid).create_time(), "endpoint": "http://nowhere"}
    (state / "process.json").write_text(json.dumps(record))
    assert main(["status", "--state", str(state)]) == 1
    assert sweep.stop(state)
    assert stubborn.wait(5) == -signal.SIGKILL


def test_the_listener_holds_its_port() -> None:
    listener = server.open_listener("127.0.0.1")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(listener.getsockname())
    listener.close()


def test_clients_are_pointed_at_this_local_cloud_and_at_nothing_else(tmp_path: Path) -> None:
    client = server.client_environment(options(tmp_path), tmp_path / "ca.pem")
    assert client["AWS_ENDPOINT_URL"] == "https://127.0.0.1:4711"
    assert client["LOCAL_CLOUD_URL"] == "http://127.0.0.1:4712/_local"
    for variable in ("PGSSLROOTCERT", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
        assert client[variable] == str(tmp_path / "ca.pem")
    assert client["AWS_CONFIG_FILE"] == client["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"


def test_the_emulator_enforces_permissions_and_opens_no_other_port(tmp_path: Path) -> None:
    engine = server.engine_environment(options(tmp_path))
    assert (engine["AUTH"], engine["BIND_HOST"], engine["IOT_MTLS_ENABLED"]) == ("true", "127.0.0.1", "0")


def test_it_starts_within_two_seconds(state: Path) -> None:
    # Twice the time it may take, and the best of three, for a busy machine
    seconds: list[float] = []
    while not seconds or (min(seconds) >= 4 and len(seconds) < 3):
        began = time.monotonic()
        assert up(state) == 0
        seconds.append(time.monotonic() - began)
        assert main(["down", "--state", str(state)]) == 0
    assert min(seconds) < 4
