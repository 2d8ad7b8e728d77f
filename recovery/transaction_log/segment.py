"""A segment: one link of an epoch's log in one file that proves its own integrity and its predecessor's.

Layout: MAGIC; blocks (a 4-byte length and so many bytes, each block compressed by itself: `codec`); a length of zero;
the header (JSON) and its 4-byte length; the SHA-256 (32 bytes) of all before it. The header comes last because only the
end of a transaction says what it holds, and a transaction of a gigabyte is written as it arrives. The file's name holds
the position the link begins at and the one it ends at, 16 hexadecimal digits each, so that names sort as the log runs.
"""

import fcntl
import hashlib
import json
import os
import re
import struct
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from recovery.transaction_log import codec, copy_stream
from recovery.transaction_log.copy_stream import Run, Shapes
from recovery.transaction_log.pgoutput import Begin, Commit, MessageUnknown

FORMAT = 3
MAGIC = b"citizens-log 3\n"
SUFFIX = ".segment"
HEAD = "head.json"
PENDING = "gap-pending.json"
BRANCH = "branch.json"
LOCK = ".lock"
SCRATCH = ".new.partial"
CHANGES, OPENED, GAP = "changes", "opened", "gap"
BLOCK_BYTES = 1 << 20
BLOCKS_WAITING = 8
"""Memory is bounded by this: so many blocks wait for the compression before reading pauses."""
COMPRESSORS = 2
_NAME = re.compile(r"([0-9A-F]{16})-([0-9A-F]{16})\.segment")
_LENGTH = struct.Struct("!I")
_DIGEST = 32
_READ_BYTES = 1 << 20


class SegmentCorrupt(Exception):
    """A segment's bytes are not what was written."""


class SegmentConflict(Exception):
    """The folder holds something else at or after the place of the segment that is to be written."""


class LogInUse(Exception):
    """Another run keeps this log at this moment."""


@dataclass(frozen=True)
class Header:
    """What a segment says of itself; positions are WAL positions of `epoch` as numbers of bytes.

    `kind` is CHANGES (whole transactions, the first committed at `first`), OPENED (the log begins at `first`) or GAP
    (from `first` to `last` nothing is kept, for `reason`). `previous` is the SHA-256 (hex) of the segment before it in
    this epoch, None for the first; `committed_at` the last commit's time (epoch seconds); `size` the messages' bytes
    before compression, in their frames. `sequences` says where sequences stood
    after the segment was read, never behind its rows: quoted name → [last value, whether it was given out]; all of them
    in a run's first segment, then those that moved, so a later segment's word counts.
    """

    epoch: int
    system_identifier: str
    previous: str | None
    kind: str
    first: int
    last: int
    messages: int = 0
    size: int = 0
    committed_at: float | None = None
    reason: str = ""
    sequences: dict[str, list[int]] = field(default_factory=dict)
    codec: str = codec.NAME
    format: int = FORMAT


@dataclass(frozen=True)
class Segment:
    """A segment whose SHA-256 is right."""

    path: Path
    header: Header
    sha256: str


def name(header: Header) -> str:
    """The file's name."""
    return f"{header.first:016X}-{header.last:016X}{SUFFIX}"


def segments(folder: Path) -> list[Path]:
    """The segments of an epoch's folder in the order of the log."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.name))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one to write into the folder; LogInUse when somebody does. The kernel lets go of a killed one's."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogInUse(f"Another run keeps the log in {folder}; this one has nothing to do.") from None
        yield
    finally:
        os.close(descriptor)


class Writer:
    """Writes one segment as its messages arrive; it is there as a whole or not at all, whenever the machine stops."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scratch = folder / SCRATCH
        self._file = self._scratch.open("wb")
        self._sha = hashlib.sha256()
        self._pool = ThreadPoolExecutor(COMPRESSORS, "segment")
        self._waiting: deque[Future[bytes]] = deque()
        self._block = bytearray()
        self._head = b""
        self._tail = b""
        self._size = 0
        self._append(MAGIC)

    def take(self, data: bytes) -> None:
        """The next bytes of the COPY stream, cut anywhere."""
        self._size += len(data)
        if len(self._head) < copy_stream.HEAD_BYTES:
            self._head += data[: copy_stream.HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + data[-copy_stream.TAIL_BYTES :])[-copy_stream.TAIL_BYTES :]
        self._block += data
        if len(self._block) >= BLOCK_BYTES:
            self._compress()

    def whole(self) -> tuple[Begin, Commit]:
        """The begin and the commit that what was taken runs from and to; MessageUnknown when it does not."""
        return copy_stream.ends(self._head, self._tail)

    def finish(self, header: Header, after: Path | None) -> Segment:
        """Seal and name the segment behind `after`, the newest of the folder (None: it is empty)."""
        if self._block:
            self._compress()
        while self._waiting:
            self._store()
        line = json.dumps(asdict(header) | {"size": self._size}, sort_keys=True).encode()
        self._append(_LENGTH.pack(0) + line + _LENGTH.pack(len(line)))
        digest = self._sha.digest()
        self._file.write(digest)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        kept = segments(self._folder)
        newest = kept[-1] if kept else None
        target = self._folder / name(header)
        if newest != after or target.exists():
            raise SegmentConflict(
                f"{newest} is the newest segment where {after} was expected, and {target.name} was to follow; "
                "keep all of them and verify the log."
            )
        self._scratch.rename(target)
        sync_folder(self._folder)
        return Segment(target, Header(**json.loads(line)), digest.hex())

    def close(self) -> None:
        """Let go of everything; what was not finished is removed."""
        self._pool.shutdown(cancel_futures=True)
        try:
            self._file.close()
        finally:
            self._scratch.unlink(missing_ok=True)

    def _compress(self) -> None:
        # Done without Python's lock: the next block arrives meanwhile.
        self._waiting.append(self._pool.submit(codec.compress, self._block))
        self._block = bytearray()
        while len(self._waiting) > BLOCKS_WAITING:
            self._store()

    def _store(self) -> None:
        packed = self._waiting.popleft().result()
        self._append(_LENGTH.pack(len(packed)))
        self._append(packed)

    def _append(self, data: bytes) -> None:
        self._sha.update(data)
        self._file.write(data)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries outlive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> Segment:
    """A segment whose bytes, header and name are right; SegmentCorrupt says what is not. Messages stay packed."""
    size = path.stat().st_size
    sha = hashlib.sha256()
    with path.open("rb") as file:
        left = size - _DIGEST
        while left > 0 and (data := file.read(min(left, _READ_BYTES))):
            sha.update(data)
            left -= len(data)
        digest = file.read()
        if len(digest) < _DIGEST or sha.digest() != digest:
            raise SegmentCorrupt(f"{path} does not match its SHA-256: it was torn or changed after it was written.")
    header = read_header(path)
    if path.name != name(header):
        raise SegmentCorrupt(f"{path} is not named after its positions, which would be {name(header)}.")
    return Segment(path, header, digest.hex())


def read_header(path: Path) -> Header:
    """What a segment says of itself, unproved; SegmentCorrupt when that cannot be read."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            file.seek(size - _DIGEST - _LENGTH.size)
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            file.seek(size - _DIGEST - _LENGTH.size - length)
            return Header(**json.loads(file.read(length)))
    except (OSError, ValueError, TypeError, struct.error) as error:
        raise SegmentCorrupt(f"{path} has no header that can be read: {error}.") from error


def claimed(path: Path) -> Segment:
    """What a segment says it is, and the SHA-256 that it says it has: nothing is proved by it."""
    header = read_header(path)
    with path.open("rb") as file:
        file.seek(-_DIGEST, os.SEEK_END)
        return Segment(path, header, file.read().hex())


def blocks(path: Path) -> Iterator[bytes]:
    """The unpacked blocks of a segment's COPY stream; ValueError or struct.error when it is damaged."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"it does not begin with {MAGIC!r}")
        while length := _LENGTH.unpack(file.read(_LENGTH.size))[0]:
            yield codec.decompress(file.read(length))


def messages(segment: Segment) -> Iterator[bytes]:
    """The messages of pgoutput a segment holds, one after another; SegmentCorrupt when they cannot be read."""
    try:
        yield from copy_stream.messages(blocks(segment.path))
    except (ValueError, struct.error) as error:
        raise SegmentCorrupt(f"{segment.path} has a right SHA-256 but cannot be read: {error}.") from error


def message_lists(segment: Segment) -> Iterator[list[bytes]]:
    """The same messages, many at a time."""
    return (part for part in parts(segment, {}) if not isinstance(part, Run))


def parts(segment: Segment, shapes: Shapes) -> Iterator[list[bytes] | Run]:
    """The same messages, many at a time, and runs of inserts of these shapes (`copy_stream.parts`)."""
    try:
        yield from copy_stream.parts(blocks(segment.path), shapes)
    except (ValueError, struct.error) as error:
        raise SegmentCorrupt(f"{segment.path} has a right SHA-256 but cannot be read: {error}.") from error


def transactions(segment: Segment) -> int:
    """How many transactions a segment holds; SegmentCorrupt when they are not what its header says."""
    header = segment.header
    try:
        found = copy_stream.survey(blocks(segment.path))
    except (ValueError, struct.error, MessageUnknown) as error:
        raise SegmentCorrupt(f"{segment.path} has a right SHA-256 but cannot be read: {error}.") from error
    expected = (header.first, header.last) if header.kind == CHANGES else (None, None)
    if (found.first, found.last) != expected or found.messages != header.messages:
        raise SegmentCorrupt(f"{segment.path} holds other transactions than its header says.")
    return found.transactions


def newest_recorded(folder: Path) -> tuple[str, str] | None:
    """Name and SHA-256 (hex) of the segment that was written last; a segment behind it may have been written since."""
    try:
        found = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        return str(found["name"]), str(found["sha256"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise SegmentCorrupt(f"{folder / HEAD} cannot be read: {error!r}.") from error


def record_newest(segment: Segment) -> None:
    """Write down which segment is the newest, so that its removal is noticed."""
    write_synced(segment.path.parent / HEAD, json.dumps({"name": segment.path.name, "sha256": segment.sha256}))


def write_synced(path: Path, text: str) -> None:
    """Replace a small file so that it is there as a whole or as it was."""
    scratch = path.with_name(f".{path.name}.partial")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
    sync_folder(path.parent)
