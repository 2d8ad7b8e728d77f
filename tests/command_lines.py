"""drctl's command lines, read without running them: what each would have called, and every command that there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import typer

from drctl.program import app, with_common_first


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be called, by its words."""

    def below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        if inner := getattr(command, "commands", None):
            for name, each in inner.items():
                yield from below((*words, name), each)
        else:
            yield words, command

    yield from below((), typer.main.get_command(app))


def parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """What a command would be given, and as `run` what the program was.

    Raises typer's usage error when there is no such command or option.
    """
    root: Any = typer.main.get_command(app)
    given: dict[str, Any] = {}

    def recording(command: Any) -> None:
        for each in getattr(command, "commands", {}).values():
            recording(each)
        if not hasattr(command, "commands"):
            command.invoke = lambda context: given.update(context.params, run=context.obj)

    recording(root)
    root.main(with_common_first(arguments), prog_name="drctl", standalone_mode=False, obj={})
    return given
