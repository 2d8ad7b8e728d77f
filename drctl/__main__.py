"""`python -m drctl`, or the launcher `drctl`: the only place of this program that reads the environment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping

import typer
from botocore.exceptions import BotoCoreError, ClientError

from deployment.problem import Problem
from drctl.program import app, with_common_first
from stacks.settings import SettingsError


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run one command; its exit code, as `drctl --help` lists them."""
    try:
        # typer's own mode would turn every error into a traceback or exit
        code = app(with_common_first(arguments), prog_name="drctl", standalone_mode=False, obj=environment)
    except typer.TyperException as error:
        if said := error.format_message():
            print(f"{said.rstrip('.')}; see `drctl --help`.", file=sys.stderr)
        return error.exit_code
    except (Problem, SettingsError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except ClientError as error:
        print(f"AWS refused {error.operation_name}: {error.response['Error'].get('Message', error)}", file=sys.stderr)
        return 1
    except BotoCoreError as error:
        print(f"AWS could not be asked: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        print("Interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    return int(code or 0)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Also where the caller ignores them: a command in the background, a pipeline that is cancelled.
        signal.signal(each, signal.default_int_handler)
    code = main(sys.argv[1:], os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that hang on a dead endpoint are left behind here
    os._exit(code)
