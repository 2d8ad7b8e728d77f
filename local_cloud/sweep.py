"""Finding and ending a local cloud from outside its process, also after that process was killed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil

from local_cloud import fleet
from local_cloud.server import DATABASES_FOLDER, PROCESS_FILE

# A server that was asked to stop has this long; the databases alone may take some seconds on a busy machine.
STOP_SECONDS = 20.0
# Process creation times have a resolution of 10 ms.
CREATION_TOLERANCE_SECONDS = 0.05


def running_server(state: Path) -> dict[str, Any] | None:
    """Return the record (`pid`, `created`, `endpoint`) of the server that runs on a state folder, None without one."""
    try:
        record: dict[str, Any] = json.loads((state / PROCESS_FILE).read_text())
    except (OSError, ValueError):
        return None
    return record if _server(record) is not None else None


def stop(state: Path) -> bool:
    """Stop the server of a state folder and what it has left; returns whether one was running.

    A process id that belongs to another program by now is recognised by its creation time and left alone.
    """
    record = running_server(state)
    process = _server(record) if record else None
    if process is not None:
        children = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        if not _has_ended(process):
            process.kill()
            _has_ended(process)
        end_processes(children)
    end_leftovers(state)
    return process is not None


def end_leftovers(state: Path) -> None:
    """End the databases that a killed server has left. Its functions end by themselves when their pipe closes."""
    if (state / DATABASES_FOLDER).exists():
        fleet.sweep(state / DATABASES_FOLDER)


def end_processes(processes: list[psutil.Process]) -> None:
    """Kill those of the given processes that still run, and wait until they are gone (at most 10 s)."""
    for process in processes:
        try:
            # psutil compares creation times first: a process id that was given out again is not killed.
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def _has_ended(process: psutil.Process) -> bool:
    """Wait for a process that is not a child; one that nobody has collected yet (a zombie) has ended too."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def _server(record: dict[str, Any]) -> psutil.Process | None:
    try:
        process = psutil.Process(int(record["pid"]))
        same = abs(process.create_time() - float(record["created"])) < CREATION_TOLERANCE_SECONDS
        alive = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
        return process if same and alive else None
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None
