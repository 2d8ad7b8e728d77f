"""Become PostgreSQL: run by path as `launch.py <parent pid> <uid> <gid> <program> [argument…]`.

A program of its own because code between fork and exec of a threaded parent is unsafe. It gives up root's identity
(uid -1: keeps its own) and, on Linux, asks the kernel for SIGQUIT (PostgreSQL's immediate shutdown) at the parent's
death, so that a `kill -9` of the local cloud takes its servers along.
"""

# All imports first: the account may not be able to read the interpreter's library.
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(parent: int, uid: int, gid: int, program: list[str]) -> None:
    """Replace this process by `program`. Does not return."""
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After the change of identity, which clears it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGQUIT))
    if os.getppid() != parent:
        # The parent died before the request above could take effect.
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
