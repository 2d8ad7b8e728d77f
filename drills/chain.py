"""The chain of this machine's drills: `reports/evidence.jsonl`, one entry a line behind the head, replaced as a whole.

The rules are those of the recovery table's chain (`recovery.evidence`). The file is written anew beside itself and
renamed, so that a writer that is killed leaves the old chain or the new one; a lock lets one writer at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployment.problem import Problem
from recovery import evidence
from recovery.clock import iso
from recovery.evidence import FAILURE, WARNING, Entry, Finding, Verification

REPORT, PAGE = "report.json", "report.html"


class Chain:
    """The chain in a folder of reports, each of which is a folder named as its record's `id`."""

    def __init__(self, reports: Path) -> None:
        self._reports = reports
        self._file = reports / "evidence.jsonl"

    def add(self, record: Mapping[str, Any], render: Callable[[Mapping[str, Any]], str], now: float) -> Entry:
        """Write a drill's report and its page into a folder of their own, and seal both. Raises Problem when the chain
        is not whole: nothing is written behind a change that nobody has seen.

        `render` gets the record with `seal`, which names the entry and the hash before it.
        """
        with self._alone():
            verification = self._verify_chain()
            if verification.verdict == FAILURE:
                first = verification.findings[0]
                raise Problem(
                    f"The chain of evidence is not whole ({first.kind} {first.where}): see "
                    f"`python -m drills --verify`, and move {self._file} away to begin a new one."
                )
            entries, _ = self._read()
            newest = entries[max(entries)] if entries else None
            seal = {
                "number": 1 if newest is None else newest.number + 1,
                "previous": evidence.GENESIS if newest is None else newest.sha256,
                "sealed_at": iso(now),
            }
            text = json.dumps({**record, "seal": seal}, indent=2, ensure_ascii=False) + "\n"
            page = render({**record, "seal": seal})
            files = {REPORT: evidence.sha256(text), PAGE: evidence.sha256(page)}
            entry = evidence.link(newest, f"drill#{record['id']}", {"record": record, "files": files}, iso(now))
            folder = self._reports / str(record["id"])
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in ((REPORT, text), (PAGE, page)):
                (folder / name).write_text(content, encoding="utf-8")
            self._write([*entries.values(), entry])
        return entry

    def verify(self) -> Verification:
        """Look at the chain and at every report that it seals. Raises Problem when there is none."""
        if not self._file.exists():
            raise Problem(f"There is no chain of evidence in {self._reports}: run a drill first.")
        verification = self._verify_chain()
        return evidence.judged(verification, list(self._verify_files())) if self._readable() else verification

    def _verify_files(self) -> Iterator[Finding]:
        entries, _ = self._read()
        sealed = set()
        for number, entry in sorted(entries.items()):
            identity = entry.subject.removeprefix("drill#")
            sealed.add(identity)
            for name, digest in sorted(entry.record.get("files", {}).items()):
                path, where = self._reports / identity / name, f"{identity}/{name} (entry {number})"
                if not path.is_file():
                    yield Finding(FAILURE, "REMOVED", where, "it was sealed and is gone.")
                elif evidence.sha256(path.read_text(encoding="utf-8", errors="replace")) != digest:
                    yield Finding(FAILURE, "ALTERED", where, "it is not what was sealed.")
        for path in sorted(self._reports.glob(f"*/{REPORT}")):
            if path.parent.name not in sealed and path.parent.name != "latest" and not path.parent.is_symlink():
                yield Finding(WARNING, "UNSEALED", path.parent.name, "this report is in no chain.")

    def _verify_chain(self) -> Verification:
        try:
            entries, head = self._read()
        except ValueError as error:
            finding = Finding(FAILURE, "ALTERED", str(self._file.name), str(error))
            return Verification(FAILURE, (finding,), 0, evidence.GENESIS)
        return evidence.verify(entries, head)

    def _readable(self) -> bool:
        try:
            self._read()
        except ValueError:
            return False
        return True

    def _read(self) -> tuple[dict[int, Entry], tuple[int, str] | None]:
        """Entries by their place in the file, and the head. Raises ValueError when the file is no chain."""
        if not self._file.exists():
            return {}, None
        first, *lines = self._file.read_text(encoding="utf-8").splitlines() or [""]
        try:
            head = json.loads(first)
            return (
                {place: evidence.parse(line) for place, line in enumerate(lines, 1)},
                (int(head["number"]), str(head["sha256"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("The file is no chain: its head or an entry cannot be read.") from error

    def _write(self, entries: list[Entry]) -> None:
        head = {"number": entries[-1].number, "sha256": entries[-1].sha256}
        fresh = self._file.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            for each in (head, *(asdict(entry) for entry in entries)):
                file.write(evidence.canonical(each) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._file)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._reports.mkdir(parents=True, exist_ok=True)
        with (self._reports / ".evidence.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
