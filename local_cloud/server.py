"""The local cloud's process: the emulator, the PostgreSQL fleet and everything that makes both behave like AWS.

The emulator reads its settings from the environment when its modules are imported. Nothing here imports one of them
before `serve` has set those variables, and that is why the imports of the parts stand inside the functions.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from local_cloud.alarms import Alarms
    from local_cloud.database_log import DatabaseLogs
    from local_cloud.fleet import Fleet
    from local_cloud.rds_api import DatabaseService
    from local_cloud.rotation import Rotations

PROCESS_FILE = "process.json"
ENVIRONMENT_FILE = "environment"
LOG_FILE = "log"
DATABASES_FOLDER = "databases"
# The emulator takes `test` for the account's root user, which IAM policies do not restrict: the CDK CLI's credentials.
ROOT_ACCESS_KEY = "test"
# Open connections get this long to finish before the server stops.
GRACE_SECONDS = 0.3


@dataclass(frozen=True)
class LocalCloudOptions:
    """What one local cloud runs with: its state folder, its endpoint's address and port and the account it plays.

    `port` speaks TLS and is what AWS clients use; `plain_port` does not: the control API answers there, and an AWS call
    is what AWS calls insecure transport. `permissions` is a file that gets the record of what every role asked for,
    when it stops.
    """

    state: Path
    host: str
    port: int
    account: str
    region: str
    client_address: str
    permissions: Path | None = None
    plain_port: int = 0

    @property
    def endpoint(self) -> str:
        """The URL that AWS clients use. It names an IP address so that S3 clients put the bucket into the path."""
        return f"https://{self.host}:{self.port}"

    @property
    def plain_endpoint(self) -> str:
        """The same without TLS."""
        return f"http://{self.host}:{self.plain_port}"


def engine_environment(options: LocalCloudOptions) -> dict[str, str]:
    """Return the variables the emulator reads at import: IAM enforced, loopback only, no Docker, no side listeners."""
    return {
        "GATEWAY_PORT": str(options.port),
        "BIND_HOST": options.host,
        "MINISTACK_HOST": options.host,
        "MINISTACK_ACCOUNT_ID": options.account,
        "MINISTACK_REGION": options.region,
        "AWS_DEFAULT_REGION": options.region,
        "AWS_REGION": options.region,
        "AWS_ACCESS_KEY_ID": ROOT_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": ROOT_ACCESS_KEY,
        "AWS_ENDPOINT_URL": options.endpoint,
        "AUTH": "true",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",
        "LOG_LEVEL": "WARNING",
        # Whatever a part of the emulator writes goes with the state folder.
        "STATE_DIR": str(options.state / "temporary"),
        "TMPDIR": str(options.state / "temporary"),
    }


def client_environment(options: LocalCloudOptions, authority_bundle: Path) -> dict[str, str]:
    """Return the variables that point an AWS client, the CDK CLI and libpq at this local cloud and at nothing else."""
    return {
        "AWS_ENDPOINT_URL": options.endpoint,
        # For boto3 and the AWS CLI, and for the CDK CLI, which runs on Node.js.
        "AWS_CA_BUNDLE": str(authority_bundle),
        "NODE_EXTRA_CA_CERTS": str(authority_bundle),
        "AWS_ACCESS_KEY_ID": ROOT_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": ROOT_ACCESS_KEY,
        "AWS_DEFAULT_REGION": options.region,
        "AWS_REGION": options.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "CDK_DISABLE_VERSION_CHECK": "1",
        "CDK_DEFAULT_ACCOUNT": options.account,
        "CDK_DEFAULT_REGION": options.region,
        "PGSSLROOTCERT": str(authority_bundle),
        "LOCAL_CLOUD_URL": f"{options.plain_endpoint}/_local",
    }


def open_listener(host: str) -> socket.socket:
    """Return a socket that listens on a free port of `host`. It stays open, so that no other process gets the port,
    and a client that is early waits instead of being refused."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, 0))
    listener.listen()
    listener.set_inheritable(False)
    return listener


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


class LocalCloud:
    """Everything behind the endpoint of one local cloud, put together."""

    def __init__(self, options: LocalCloudOptions) -> None:
        """Install every part into the emulator. Once per process: the emulator's state is its modules' state."""
        from local_cloud import (
            account_facts,
            api_faults,
            backups,
            cloudformation_types,
            database_tokens,
            file_systems,
            functions_runtime,
            interfaces,
            log_metrics,
            nested_stacks,
            schedules,
            security_groups,
            state_machines,
            unsupported,
        )
        from local_cloud.alarms import Alarms
        from local_cloud.certificates import CertificateAuthority
        from local_cloud.database_log import DatabaseLogs
        from local_cloud.events import DatabaseEvents
        from local_cloud.fleet import Fleet
        from local_cloud.rds_api import DatabaseService
        from local_cloud.restore_api import RestoreService
        from local_cloud.rotation import Rotations
        from local_cloud.service_metrics import ServiceMetrics

        self.options = options
        self.authority = CertificateAuthority.open(options.state / "authority")
        self.events = DatabaseEvents(options)
        self.fleet: Fleet = Fleet(
            options.state / DATABASES_FOLDER,
            self.authority,
            on_event=self.events.record,
            admission=security_groups.SecurityGroupAdmission(options),
            tokens=database_tokens.DatabaseTokens(options),
        )
        file_systems.install(options)
        functions_runtime.install(options, self.authority.bundle)
        state_machines.install(options)
        api_faults.install()
        schedules.install(options)
        self.databases: DatabaseService = DatabaseService(self.fleet, options)
        self.databases.install()
        RestoreService(self.fleet, self.databases).install()
        self.rotations: Rotations = Rotations(options)
        self.rotations.install()
        nested_stacks.install()
        cloudformation_types.install(self.events)
        backups.install(self.databases.hindrance_of_a_backup)
        interfaces.install()
        account_facts.install()
        log_metrics.install()
        self.database_logs: DatabaseLogs = DatabaseLogs(self.fleet, options)
        self.database_logs.install()
        self.metrics: ServiceMetrics = ServiceMetrics(self.fleet, options)
        self.metrics.install()
        self.alarms: Alarms = Alarms()
        self.alarms.install()
        self.templates = unsupported.TemplateFindings()
        self.templates.install()

    def status(self) -> dict[str, Any]:
        """Return what `GET /_local/status` answers: the process, the instances and what templates asked for in vain."""
        return {
            "pid": os.getpid(),
            "endpoint": self.options.endpoint,
            "instances": self.databases.status(),
            "unsupported": self.templates.findings(),
        }

    def close(self) -> None:
        """Stop the timers and the databases and end every process that is still a child of this one."""
        from local_cloud import functions_runtime, permission_record, sweep

        if self.options.permissions is not None:
            write_whole(self.options.permissions, json.dumps(permission_record.record.shown()))
        self.alarms.close()
        self.metrics.close()
        self.database_logs.close()
        self.rotations.close()
        self.events.close()
        functions_runtime.stop_all()
        self.fleet.close()
        sweep.end_processes(psutil.Process().children(recursive=True))


def prepare_state(options: LocalCloudOptions) -> None:
    """Make the state folder and note which process it belongs to, for `down` to find and to recognise."""
    (options.state / "temporary").mkdir(parents=True, exist_ok=True)
    process = psutil.Process()
    record = {
        "pid": process.pid,
        "created": process.create_time(),
        "endpoint": options.endpoint,
        "control": f"{options.plain_endpoint}/_local",
    }
    write_whole(options.state / PROCESS_FILE, json.dumps(record))


def remove_state(state: Path) -> None:
    """Remove everything a local cloud has written."""
    shutil.rmtree(state, ignore_errors=True)


def serve(
    options: LocalCloudOptions, encrypted: socket.socket, plain: socket.socket, announce: Callable[[str], None]
) -> None:
    """Run the local cloud in this process until SIGTERM or SIGINT, then stop everything it has started.

    The sockets listen on the options' two ports. `announce` gets one line per step, for a person. The state folder is
    removed at the end; when the start or the run fails it stays, with the log, and the error goes to the caller.
    """
    os.environ.update(engine_environment(options))
    prepare_state(options)
    _raise_file_limit()
    announce(f"local cloud: account {options.account}, region {options.region}, state {options.state}")
    cloud = LocalCloud(options)
    try:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(_serve(cloud, encrypted, plain, announce))
    finally:
        announce("local cloud: stopping")
        cloud.close()
    remove_state(options.state)
    announce("local cloud: stopped, nothing left behind")
    # Threads that still wait inside the emulator hold nothing any more; do not wait for them.
    threading.Timer(2.0, os._exit, (0,)).start() if _lingering_threads() else None


class _Loop(asyncio.SelectorEventLoop):
    """Takes leave of TLS clients within the grace: an idle one answers nothing, and asyncio would wait for 30 s."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nobody is left to be told that a client went without a farewell."""
        if not isinstance(context.get("exception"), TimeoutError | ConnectionError | ssl.SSLError):
            super().call_exception_handler(context)

    async def create_server(self, *arguments: Any, **named: Any) -> asyncio.Server:
        if named.get("ssl") is not None:
            named["ssl_shutdown_timeout"] = GRACE_SECONDS
        return await super().create_server(*arguments, **named)


async def _serve(
    cloud: LocalCloud, encrypted: socket.socket, plain: socket.socket, announce: Callable[[str], None]
) -> None:
    import hypercorn.asyncio
    import hypercorn.config
    import ministack.app

    from local_cloud.control import ControlApi

    options = cloud.options
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def ready() -> None:
        lines = client_environment(options, cloud.authority.bundle)
        write_whole(options.state / ENVIRONMENT_FILE, _as_lines(lines))
        announce(f"local cloud: ready at {options.endpoint}")

    class Config(hypercorn.config.Config):
        """With a certificate of the local cloud's own authority, which hypercorn would read from files."""

        ssl_enabled = True

        def create_ssl_context(self) -> ssl.SSLContext:
            return cloud.authority.server_context([options.host])

    config = Config()
    config.bind = [f"fd://{encrypted.detach()}"]
    config.insecure_bind = [f"fd://{plain.detach()}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = GRACE_SECONDS
    config.loglevel = "WARNING"
    api = ControlApi(ministack.app.app, cloud, ready)
    await hypercorn.asyncio.serve(api, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]


def _as_lines(variables: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def _lingering_threads() -> bool:
    return any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: every proxied connection takes two."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
