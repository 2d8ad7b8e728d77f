"""A real browser for tests: headless Chromium from the npm package @sparticuz/chromium, driven over a pipe.

The package holds the browser and the libraries that a bare machine lacks, compressed; both are unpacked once into
`build/`. Commands are those of the Chrome DevTools Protocol, as JSON messages that end with a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import platform
import select
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "node_modules" / "@sparticuz" / "chromium"
# A screen, not this machine's
FLAGS = (
    *("--headless=shell", "--no-sandbox", "--no-zygote", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--remote-debugging-pipe"),
)
ANSWER_SECONDS = 60.0
UNPACK = """
const [zlib, fs, stream] = [require('zlib'), require('fs'), require('stream/promises')];
const [from, to] = process.argv.slice(1);
stream.pipeline(fs.createReadStream(from), zlib.createBrotliDecompress(), fs.createWriteStream(to));
"""


@dataclass
class Look:
    """What a page did at one size: what it asked the network for, complained about, and how wide it is (CSS px)."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    content_width: int = 0
    text: str = ""
    screenshot: bytes = b""
    pdf: bytes = b""


def is_available() -> bool:
    """Whether the package has a browser for this machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and PACKAGE.is_dir()


def _unpacked() -> Path:
    """The folder of the unpacked browser, made by the first who needs it."""
    version = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))["version"]
    folder = ROOT / "build" / "browser" / str(version)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent))
    for packed in sorted((PACKAGE / "bin").glob("*.br")):
        target = fresh / packed.stem
        node = str(Path(sys.executable).with_name("node"))
        subprocess.run([node, "-e", UNPACK, str(packed), str(target)], check=True)
        if target.suffix == ".tar":
            with tarfile.open(target) as archive:
                archive.extractall(fresh, filter="data")
            target.unlink()
    (fresh / "chromium").chmod(0o755)
    try:
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    return folder


class Browser:
    """One page of one browser."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, of: int) -> None:
        self._process, self._to, self._of = process, to, of
        self._number = 0
        self._received = b""
        self._events: list[dict[str, Any]] = []
        self._session = ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = str(self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def look(
        self,
        page: Path,
        width: int,
        scheme: Literal["light", "dark"] = "light",
        *,
        whole: bool = True,
        paper: bool = False,
    ) -> Look:
        """Open a page at a width and take a picture (of all of it, or of the first screen), or print it to PDF."""
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 700}
        self._ask("Emulation.setDeviceMetricsOverride", **screen)
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._events.clear()
        self._ask("Page.navigate", url=page.as_uri())
        self._await("Page.loadEventFired")
        found = Look(content_width=int(str(self.try_out("document.documentElement.scrollWidth"))))
        found.text = str(self.try_out("document.body.innerText"))
        picture = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        found.screenshot = base64.b64decode(picture["data"])
        if paper:
            found.pdf = base64.b64decode(self._ask("Page.printToPDF", preferCSSPageSize=True)["data"])
        for event in self._events:
            self._note(event, found)
        return found

    def try_out(self, script: str) -> object:
        """Run a script in the page that was looked at, as its reader's hand would; returns its value (JSON)."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """What the page that was looked at has complained about, until now."""
        found = Look()
        for event in self._events:
            self._note(event, found)
        return found.complaints

    @staticmethod
    def _note(event: Mapping[str, Any], found: Look) -> None:
        method, about = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            found.requests.append(str(about["request"]["url"]))
        elif method == "Runtime.consoleAPICalled":
            found.complaints.append(str(about["args"]))
        elif method == "Runtime.exceptionThrown":
            found.complaints.append(str(about["exceptionDetails"]["text"]))
        elif method == "Log.entryAdded":
            found.complaints.append(str(about["entry"]["text"]))

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda message: message.get("id") == self._number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _await(self, method: str) -> None:
        if not any(event.get("method") == method for event in self._events):
            self._until(lambda message: message.get("method") == method)

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            while b"\0" in self._received:
                text, _, self._received = self._received.partition(b"\0")
                message: dict[str, Any] = json.loads(text)
                if "method" in message:
                    self._events.append(message)
                if wanted(message):
                    return message
            ready, _, _ = select.select([self._of], [], [], max(deadline - time.monotonic(), 0))
            more = os.read(self._of, 1 << 20) if ready else b""
            if not more:
                raise AssertionError(f"The browser has not answered (exit code {self._process.poll()}).")
            self._received += more


@contextmanager
def opened(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in `folder`, which must exist."""
    place = _unpacked()
    ours, theirs = os.pipe(), os.pipe()  # what we write and they read; what they write and we read
    # The browser reads 3 and writes 4, whatever the numbers are here
    reads, writes = (fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (ours[0], theirs[1]))

    def connect() -> None:
        os.dup2(reads, 3)
        os.dup2(writes, 4)

    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        # Behind the machine's own, which suit it better
        "LD_LIBRARY_PATH": str(place / "lib"),
        "FONTCONFIG_PATH": str(place),
        "TZ": "UTC",
    }
    command = [str(place / "chromium"), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(3, 4),
        preexec_fn=connect,
        start_new_session=True,
    )
    for each in (ours[0], theirs[1], reads, writes):
        os.close(each)
    try:
        yield Browser(process, ours[1], theirs[0])
    finally:
        process.kill()
        process.wait()
        os.close(ours[1])
        os.close(theirs[0])
