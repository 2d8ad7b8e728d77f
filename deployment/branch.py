"""Which environments a branch has, and what their suffixes are: `python3 -m deployment.branch`.

Needs the standard library only, so that a pipeline can plan before it sets anything up.

A name that is a valid suffix already stays as it is. Any other becomes `<stem>-<hash>`: what is left of the name, and
eight hexadecimal digits of the SHA-256 of the whole, since `Feature/X` and `feature-x` are two branches. A name that
ends like a hash itself, or that environments kept by hand go by, gets one too, so nobody can name a branch into
another's environment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from dataclasses import asdict, dataclass

LONGEST = 20
HASH_DIGITS = 8
# Environments that outlive branches. Only the branch `main` has one of them; `prod` is never deployed by a pipeline.
KEPT = frozenset({"main", "dev", "staging", "prod", "production"})
BRANCHES = "dev"
STAGING = "staging"

_ENDS_LIKE_A_HASH = re.compile(rf"(?:.*-)?[0-9a-f]{{{HASH_DIGITS}}}")


@dataclass(frozen=True)
class Target:
    """An environment suffix, and the GitHub environment (hence the account and role) that it is deployed with."""

    environment: str
    suffix: str

    @property
    def is_kept(self) -> bool:
        """Whether it outlives branches, so that its secret is the agency's and a pipeline never destroys it."""
        return self.suffix in KEPT


def suffix_of(branch: str) -> str:
    """The environment suffix of a branch: 1 to 20 lower-case letters, digits and single hyphens; always the same.

    Raises ValueError for an empty name.
    """
    if not branch:
        raise ValueError("The branch name is empty: name a branch, for example feature/login.")
    words = re.sub(r"[^a-z0-9]+", "-", branch.lower()).strip("-")
    if branch == "main" or (
        words == branch and len(words) <= LONGEST and words not in KEPT and not _ENDS_LIKE_A_HASH.fullmatch(words)
    ):
        return words
    stem = words[: LONGEST - HASH_DIGITS - 1].rstrip("-") or "branch"
    return f"{stem}-{hashlib.sha256(branch.encode()).hexdigest()[:HASH_DIGITS]}"


def deployed_for(branch: str, default_branch: str) -> tuple[Target, ...]:
    """What a push to a branch deploys: an environment of its own and, for the default branch, staging as well."""
    own = Target(BRANCHES, suffix_of(branch))
    return (own, Target(STAGING, STAGING)) if branch == default_branch else (own,)


def gone_with(branch: str, default_branch: str) -> tuple[Target, ...]:
    """What the end of a branch destroys: the environment of its own, never one that outlives branches."""
    own = Target(BRANCHES, suffix_of(branch))
    return () if branch == default_branch or own.is_kept else (own,)


def matrix(targets: tuple[Target, ...]) -> str:
    """Targets as the `include` of a GitHub matrix: JSON on one line, which may be empty."""
    return json.dumps([{**asdict(target), "kept": target.is_kept} for target in targets])


def main(arguments: list[str]) -> int:
    """Print a suffix, or a matrix as JSON on one line; 0 when it worked, 1 with a sentence when it could not."""
    parser = argparse.ArgumentParser(prog="python3 -m deployment.branch", description=__doc__)
    parser.add_argument("command", choices=("suffix", "deployed", "gone"))
    parser.add_argument("--branch", required=True, help="name of the branch, without refs/heads/")
    parser.add_argument("--default-branch", default="main", help="the branch that staging follows")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "suffix":
            print(suffix_of(chosen.branch))
        else:
            targets_of = deployed_for if chosen.command == "deployed" else gone_with
            print(matrix(targets_of(chosen.branch, chosen.default_branch)))
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
