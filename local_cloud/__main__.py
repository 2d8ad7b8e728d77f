"""The command line: `python -m local_cloud up|down|status|unsupported [--state DIR]`.

Of the whole local cloud only this program could read the environment, and it has no need to: what a local cloud runs
with are its options, and what its clients need stands in `<state>/environment`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from local_cloud import server, sweep

DEFAULT_STATE = Path(".local-cloud")
DEFAULT_ACCOUNT = "111122223333"
DEFAULT_REGION = "eu-central-2"
DEFAULT_CLIENT_ADDRESS = "10.60.0.10"
HOST = "127.0.0.1"
START_SECONDS = 30.0
TAIL_LINES = 25


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    state: Path = options.state.resolve()
    match options.command:
        case "up":
            return _up(state, options)
        case "down":
            return _down(state)
        case "unsupported":
            return _unsupported(state)
        case _:
            return _status(state)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_cloud", description="The local cloud.")
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "up": "start it; in the foreground, Ctrl-C stops it",
        "down": "stop it and everything it has started",
        "status": "show its instances",
        "unsupported": "list what the deployed templates ask for and it does not do",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--state", type=Path, default=DEFAULT_STATE, help="its folder (default %(default)s)")
        if name == "up":
            command.add_argument("--detach", action="store_true", help="return when it is ready")
            command.add_argument(
                "--permissions", type=Path, help="a file for what every role asked for, written when it stops"
            )
            # What a detached start runs in the background: the folder is there already, with the log.
            command.add_argument("--in-background", action="store_true", help=argparse.SUPPRESS)
            command.add_argument("--account", default=DEFAULT_ACCOUNT, help="12 digits (default %(default)s)")
            command.add_argument("--region", default=DEFAULT_REGION, help="default %(default)s")
            command.add_argument(
                "--client-address",
                default=DEFAULT_CLIENT_ADDRESS,
                help="address that this machine's programs have for security groups (default %(default)s)",
            )
    return parser


def _up(state: Path, options: argparse.Namespace) -> int:
    running = sweep.running_server(state)
    if running is not None:
        print(f"local cloud: already running at {running['endpoint']} (state {state})")
        return 0
    if len(options.account) != 12 or not options.account.isdigit():
        print(f"local cloud: an account has 12 digits, not {options.account!r}", file=sys.stderr)
        return 2
    if options.in_background:
        return _up_here(state, options)
    sweep.end_leftovers(state)
    server.remove_state(state)
    state.mkdir(parents=True)
    return _up_detached(state, options) if options.detach else _up_here(state, options)


def _up_here(state: Path, options: argparse.Namespace) -> int:
    encrypted, plain = server.open_listener(HOST), server.open_listener(HOST)
    settings = server.LocalCloudOptions(
        state=state,
        host=HOST,
        port=encrypted.getsockname()[1],
        plain_port=plain.getsockname()[1],
        account=options.account,
        region=options.region,
        client_address=options.client_address,
        permissions=options.permissions,
    )
    server.serve(settings, encrypted, plain, lambda line: print(line, flush=True))
    return 0


def _up_detached(state: Path, options: argparse.Namespace) -> int:
    log = state / server.LOG_FILE
    command = [sys.executable, "-m", "local_cloud", "up", "--state", str(state)]
    for name in ("account", "region", "client_address"):
        command += [f"--{name.replace('_', '-')}", getattr(options, name)]
    if options.permissions is not None:
        command += ["--permissions", str(options.permissions.resolve())]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--in-background"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if (state / server.ENVIRONMENT_FILE).exists():
            running = sweep.running_server(state) or {}
            print(f"local cloud: ready at {running.get('endpoint')} (process {process.pid}, state {state})")
            return 0
        time.sleep(0.02)
    process.kill()
    print(f"local cloud: did not start; its log {log} ends with:", file=sys.stderr)
    print("\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:]), file=sys.stderr)
    return 1


def _down(state: Path) -> int:
    stopped = sweep.stop(state)
    server.remove_state(state)
    print(f"local cloud: {'stopped' if stopped else 'was not running'} (state {state})")
    return 0


def _status(state: Path) -> int:
    answer = _ask(state)
    if answer is None:
        return 1
    print(json.dumps(answer, indent=2))
    return 0


def _unsupported(state: Path) -> int:
    answer = _ask(state)
    if answer is None:
        return 1
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for finding in answer["unsupported"]:
        grouped.setdefault((finding["type"], finding["property"], finding["reason"]), []).append(finding["resource"])
    for (resource_type, name, reason), resources in sorted(grouped.items()):
        print(f"{resource_type} {name} ({len(resources)} resources): {reason}")
    print(f"{len(grouped)} features of the deployed templates are accepted and have no effect here")
    return 0


def _ask(state: Path) -> dict[str, Any] | None:
    running = sweep.running_server(state)
    if running is None:
        print(f"local cloud: not running (state {state})", file=sys.stderr)
        return None
    try:
        control = running.get("control", f"{running['endpoint']}/_local")
        with urllib.request.urlopen(f"{control}/status", timeout=10) as response:  # noqa: S310
            answer: dict[str, Any] = json.load(response)
            return answer
    except (urllib.error.URLError, TimeoutError) as error:
        print(f"local cloud: {running['endpoint']} does not answer: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
