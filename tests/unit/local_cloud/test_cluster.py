import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local_cloud import postgres_host
from local_cloud.cluster import Cluster, ClusterError, make_template
from local_cloud.fleet import sweep
from local_cloud.parameters import forces_ssl, honoured_settings, unhonoured_parameters
from local_cloud.postgres_host import HostError, PostgresHost, kill_below, working_below

from .conftest import eventually


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresHost]:
    # pytest's folders are private to the user who runs it: as root, the storage goes elsewhere.
    host = PostgresHost(tmp_path_factory.mktemp("state"))
    yield host
    host.close()


@pytest.fixture(scope="module")
def template(host: PostgresHost) -> Path:
    return make_template(host)


@pytest.fixture
def exits() -> list[Cluster]:
    return []


@pytest.fixture
def cluster(host: PostgresHost, template: Path, exits: list[Cluster]) -> Iterator[Cluster]:
    cluster = Cluster(host, "one", exits.append)
    cluster.create(template)
    cluster.configure({})
    cluster.start()
    yield cluster
    cluster.remove()


def test_a_cluster_listens_on_its_socket_only(cluster: Cluster) -> None:
    assert cluster.socket.is_socket()
    assert cluster.query("SHOW listen_addresses") == [("",)]
    assert cluster.pid is not None
    # PostgreSQL runs in no process that root owns.
    assert psutil.Process(cluster.pid).uids().real != 0


def test_a_cluster_has_the_roles_of_an_rds_instance(cluster: Cluster) -> None:
    cluster.create_master("owner", "it's a password", "citizens")
    roles = {name for (name,) in cluster.query("SELECT rolname FROM pg_roles")}
    assert {"owner", "rds_superuser", "rds_replication", "rds_iam", "rdsadmin", "rdsrepladmin"} <= roles
    assert cluster.query("SELECT pg_has_role('owner', 'rds_superuser', 'member')") == [(True,)]
    with pytest.raises(ClusterError, match="already exists"):
        cluster.create_master("owner", "x", "citizens")


def test_what_was_acknowledged_survives_the_kill_of_every_process(cluster: Cluster, exits: list[Cluster]) -> None:
    cluster.execute("CREATE TABLE public.kept AS SELECT 7 AS number")
    cluster.kill_postmaster()
    eventually(lambda: exits == [cluster])
    assert not cluster.is_running
    cluster.start()
    assert cluster.query("SELECT number FROM public.kept") == [(7,)]


def test_a_stop_that_was_asked_for_is_no_exit(cluster: Cluster, exits: list[Cluster]) -> None:
    cluster.stop()
    assert not cluster.is_running
    cluster.stop()
    cluster.kill_postmaster()
    cluster.start()
    pid = cluster.pid
    cluster.start()
    assert cluster.pid == pid
    cluster.kill()
    assert exits == []


def test_backends_of_a_killed_postmaster_are_gone_before_a_restart(cluster: Cluster) -> None:
    assert cluster.pid is not None
    backends = psutil.Process(cluster.pid).children()
    # Stopped backends cannot notice the death of their postmaster.
    for backend in backends:
        backend.suspend()
    cluster.kill_postmaster()
    eventually(lambda: not cluster.is_running)
    assert list(working_below([cluster.data]))
    cluster.start()
    assert cluster.query("SELECT 1") == [(1,)]
    living = {process.pid for process in working_below([cluster.data])}
    assert not living & {backend.pid for backend in backends}


def test_a_standby_follows_and_can_be_promoted(host: PostgresHost, cluster: Cluster) -> None:
    cluster.keep_slot("standby")
    cluster.keep_slot("standby")
    standby = Cluster(host, "two", lambda _: None)
    standby.clone(cluster, "standby")
    standby.configure(cluster.connection_info("standby", "standby"))
    standby.start()
    eventually(lambda: cluster.has_standby("standby"))
    cluster.execute("CREATE TABLE public.followed ()")
    eventually(lambda: bool(standby.query("SELECT FROM pg_class WHERE relname = 'followed'")))
    assert standby.is_in_recovery()
    standby.promote()
    standby.promote()
    assert not standby.is_in_recovery()
    standby.remove()
    standby.remove()
    assert not standby.directory.exists()
    assert not standby.socket.exists()
    cluster.drop_slot("standby")


def test_a_base_backup_needs_its_slot(host: PostgresHost, cluster: Cluster) -> None:
    copy = Cluster(host, "copy", lambda _: None)
    with pytest.raises(ClusterError, match="pg_basebackup failed"):
        copy.clone(cluster, "missing")
    copy.remove()


def test_a_cluster_that_cannot_start_says_why(cluster: Cluster) -> None:
    cluster.stop()
    cluster.configure({"work_mem": "plenty"})
    with pytest.raises(ClusterError, match='invalid value for parameter "work_mem"'):
        cluster.start()
    cluster.configure({"application_name": "it's"})
    cluster.start()
    cluster.configure({"work_mem": "5MB"})
    eventually(lambda: cluster.query("SHOW work_mem") == [("5MB",)])


def test_a_cluster_without_data_has_nothing_to_configure_or_say(host: PostgresHost) -> None:
    cluster = Cluster(host, "none", lambda _: None)
    cluster.configure({})
    assert cluster.last_words() == "no log"
    with pytest.raises(ClusterError, match="cannot start"):
        cluster.start()
    with pytest.raises(ClusterError):
        cluster.query("SELECT 1")
    cluster.stop()
    cluster.remove()


def test_a_program_that_fails_is_quoted(host: PostgresHost) -> None:
    with pytest.raises(HostError, match="initdb failed"):
        host.run("initdb", "-D", str(host.storage / "template"), "--no-such-option")


def test_closing_a_host_leaves_nothing(open_folder: Path) -> None:
    state = open_folder / "closing"
    host = PostgresHost(state)
    assert host.storage == state / "postgresql"
    cluster = Cluster(host, "one", lambda _: None)
    cluster.create(make_template(host))
    cluster.configure({})
    cluster.start()
    process = psutil.Process(cluster.pid)
    host.close()
    host.close()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not host.sockets.exists()
    assert list(state.iterdir()) == []
    with pytest.raises(HostError, match="closed"):
        host.start(["postgres"], state / "log")


def test_a_killed_local_cloud_takes_its_servers_along_and_the_next_sweeps_its_files(open_folder: Path) -> None:
    state = open_folder / "killed"
    program = """
        import sys, time
        from pathlib import Path
        from local_cloud.cluster import Cluster, make_template
        from local_cloud.postgres_host import PostgresHost
        host = PostgresHost(Path(sys.argv[1]))
        cluster = Cluster(host, "one", print)
        cluster.create(make_template(host))
        cluster.configure({})
        cluster.start()
        print(host.sockets, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        sockets = Path(child.stdout.readline().strip())
        assert sockets.is_dir()
        folder = state.resolve() / "postgresql"
        assert list(working_below([folder]))
        child.send_signal(signal.SIGKILL)
    if sys.platform == "linux":
        eventually(lambda: not list(working_below([folder])))
    sweep(state)
    assert not list(working_below([folder]))
    assert not folder.exists()
    assert not sockets.exists()
    assert list(state.iterdir()) == []


def test_a_sweep_ends_processes_and_removes_only_folders_of_ours(open_folder: Path) -> None:
    state, other = open_folder / "swept", open_folder / "precious"
    folder = state / "postgresql"
    folder.mkdir(parents=True)
    other.mkdir()
    with subprocess.Popen(["/bin/sleep", "60"], cwd=folder) as process:
        (state / postgres_host.FOLDERS_FILE).write_text(f"{folder}\n{other}\nlcpg-relative\n")
        sweep(state)
        assert process.wait(5) == -signal.SIGKILL
    assert not folder.exists()
    assert other.exists()


def test_processes_elsewhere_are_left_alone(tmp_path: Path) -> None:
    neighbour = tmp_path / "folder-2"
    neighbour.mkdir()
    with subprocess.Popen(["/bin/sleep", "60"], cwd=neighbour) as process:
        time.sleep(0.05)
        kill_below([tmp_path / "folder"])
        assert process.poll() is None
        process.kill()


def test_an_account_that_exists_is_found() -> None:
    assert postgres_host._account(["no-such-account", "root"]).uid == 0
    with pytest.raises(HostError, match="no account"):
        postgres_host._account(["no-such-account"])


def test_a_folder_is_entered_with_the_rights_of_owner_group_or_others(tmp_path: Path) -> None:
    status = tmp_path.stat()
    tmp_path.chmod(0o100)
    assert postgres_host._may_traverse(tmp_path.stat(), postgres_host.Account("owner", status.st_uid, 1))
    tmp_path.chmod(0o010)
    assert postgres_host._may_traverse(tmp_path.stat(), postgres_host.Account("group", 12345, status.st_gid))
    tmp_path.chmod(0o700)
    assert not postgres_host._may_traverse(tmp_path.stat(), postgres_host.Account("other", 12345, 12345))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_binaries_the_account_cannot_reach_are_copied(
    open_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "installation"
    (hidden / "bin").mkdir(parents=True)
    (hidden / "bin" / "postgres").write_text("#!/bin/sh\necho reached\n")
    (hidden / "bin" / "postgres").chmod(0o755)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(postgres_host, "_installation", lambda: hidden)
    host = PostgresHost(open_folder / "copied")
    assert host.run("postgres") == "reached\n"
    host.close()


def test_no_folder_for_sockets_is_a_clear_error(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_host, "SOCKET_PATH_LIMIT", 10)
    with pytest.raises(HostError, match="no temporary folder"):
        PostgresHost(open_folder / "long")


def test_parameters_are_passed_on_or_listed() -> None:
    parameters = {
        "rds.logical_replication": "1",
        "rds.force_ssl": "0",
        "max_slot_wal_keep_size": "2048",
        "shared_preload_libraries": "pg_stat_statements, pgaudit",
        "pgaudit.log": "ddl",
        "max_connections": "LEAST({DBInstanceClassMemory/9531392},5000)",
    }
    assert honoured_settings(parameters) == {
        "wal_level": "logical",
        "max_slot_wal_keep_size": "2048",
        "shared_preload_libraries": "pg_stat_statements",
    }
    assert unhonoured_parameters(parameters) == (
        "max_connections",
        "pgaudit.log",
        "shared_preload_libraries=pgaudit",
    )
    assert not forces_ssl(parameters)


def test_tls_is_forced_unless_switched_off() -> None:
    assert forces_ssl({})
    assert honoured_settings({}) == {}


def test_every_honoured_parameter_is_one_of_postgresql(cluster: Cluster) -> None:
    from local_cloud.parameters import HONOURED

    known = {name for (name,) in cluster.query("SELECT lower(name) FROM pg_settings")}
    assert known >= HONOURED
