"""The pinned CDK command line, run on the Node.js of the virtual environment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployment.problem import Problem

ROOT = Path(__file__).resolve().parent.parent


def stack_name(suffix: str) -> str:
    """The parent stack's name for an environment suffix."""
    return f"citizens-dr-{suffix}"


@dataclass(frozen=True)
class Cdk:
    """The CDK CLI for one environment suffix.

    Each suffix has its own cloud assembly (`cdk.out/<suffix>`), so two suffixes can be synthesised and deployed at
    once.
    With `log` the CLI's output goes there instead of to the terminal; a failure then shows its last lines.
    """

    suffix: str
    environment: Mapping[str, str]
    log: Path | None = None
    folder: Path | None = None
    """Where the assembly is, when nothing is to be deployed from it."""

    @property
    def assembly(self) -> Path:
        """Where the synthesised templates of this suffix are."""
        return self.folder or ROOT / "cdk.out" / self.suffix

    @property
    def raw_outputs(self) -> Path:
        """Where the CLI writes the stack's outputs, by stack name."""
        return self.assembly.with_name(f"{self.suffix}.outputs.json")

    def synth(self) -> None:
        """Synthesise the app into the assembly of this suffix."""
        environment = {**self.environment, "ENV_SUFFIX": self.suffix}
        self._run(self._command(["synth", "--quiet", "--output", str(self.assembly)]), environment, "synthesise")

    def bootstrap(self, account: str, region: str) -> None:
        """Bootstrap account and region, which CDK needs once before the first deploy."""
        self._cli(["bootstrap", f"aws://{account}/{region}", "--app", ""], "bootstrap")

    def deploy(self) -> dict[str, str]:
        """Deploy the assembly; returns the parent's outputs, flat."""
        self.raw_outputs.unlink(missing_ok=True)
        self._cli(
            [
                "deploy",
                stack_name(self.suffix),
                "--app",
                str(self.assembly),
                "--require-approval",
                "never",
                "--outputs-file",
                str(self.raw_outputs),
            ],
            "deploy",
        )
        by_stack = json.loads(self.raw_outputs.read_text(encoding="utf-8"))
        self.raw_outputs.unlink()
        return {str(name): str(value) for name, value in by_stack[stack_name(self.suffix)].items()}

    def diff(self) -> str:
        """What a deploy of the assembly would change; empty when nothing."""
        command = ["diff", stack_name(self.suffix), "--app", str(self.assembly), "--fail"]
        done = subprocess.run(
            self._command(command), env=dict(self.environment), cwd=ROOT, capture_output=True, text=True, check=False
        )
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def destroy(self) -> None:
        """Destroy the stack of this suffix; a stack that does not exist is destroyed already."""
        self._cli(["destroy", stack_name(self.suffix), "--app", str(self.assembly), "--force"], "destroy")

    def discard(self) -> None:
        """Remove the assembly of a suffix that will not be deployed again."""
        shutil.rmtree(self.assembly, ignore_errors=True)
        self.raw_outputs.unlink(missing_ok=True)

    def resources(self, resource_type: str) -> list[Mapping[str, Any]]:
        """The properties of every resource of a type, in the parent and every nested template of the assembly."""
        templates = (json.loads(path.read_text(encoding="utf-8")) for path in self.assembly.glob("*.template.json"))
        return [
            resource.get("Properties", {})
            for template in templates
            for resource in template["Resources"].values()
            if resource["Type"] == resource_type
        ]

    def required_bootstrap(self) -> int:
        """The version of the bootstrap stack that the assembly needs."""
        manifest = (self.assembly / "manifest.json").read_text(encoding="utf-8")
        return max(map(int, re.findall(r'"requiresBootstrapStackVersion": (\d+)', manifest)))

    def template_sha256(self) -> str:
        """SHA-256 over the parent and every nested template of the assembly, by file name."""
        digest = hashlib.sha256()
        for template in sorted(self.assembly.glob("*.template.json")):
            digest.update(template.name.encode())
            digest.update(template.read_bytes())
        return digest.hexdigest()

    def _command(self, arguments: list[str]) -> list[str]:
        cli = ROOT / "node_modules" / "aws-cdk" / "bin" / "cdk"
        return [
            str(Path(sys.executable).with_name("node")),
            str(cli),
            "--no-notices",
            "--no-version-reporting",
            *arguments,
        ]

    def _cli(self, arguments: list[str], verb: str) -> None:
        self._run(self._command(arguments), dict(self.environment), verb)

    def _run(self, command: list[str], environment: Mapping[str, str], verb: str) -> None:
        if self.log is None:
            code = _until_it_ends(command, environment)
            if code != 0:
                raise Problem(f"cdk could not {verb} {stack_name(self.suffix)}: the reason is above.")
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as sink:
            print(f"--- {verb} {stack_name(self.suffix)} at {time.strftime('%H:%M:%S')}", file=sink, flush=True)
            start = sink.tell()
            code = _until_it_ends(command, environment, stdout=sink, stderr=subprocess.STDOUT)
        if code != 0:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[start:].strip().splitlines()[-15:]
            raise Problem(f"cdk could not {verb} {stack_name(self.suffix)}:\n" + "\n".join(tail))


def _until_it_ends(command: list[str], environment: Mapping[str, str], **streams: Any) -> int:
    """Run a command in a session of its own: Ctrl-C is ours, and ends all that the command has started without the
    tracebacks of what lies between (node is itself a Python program here)."""
    process = subprocess.Popen(command, env=dict(environment), cwd=ROOT, start_new_session=True, **streams)
    try:
        return process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
