from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zlib
from pathlib import Path

import pytest

from recovery.transaction_log import codec, copy_stream, segment
from recovery.transaction_log.pgoutput import MessageUnknown, decode
from recovery.transaction_log.segment import CHANGES, Header, Segment, SegmentConflict, SegmentCorrupt


def some_messages(commit: int) -> list[bytes]:
    begin = b"B" + commit.to_bytes(8, "big") + bytes(8) + (7).to_bytes(4, "big")
    insert = b"I" + (16384).to_bytes(4, "big") + b"N\x00\x01t\x00\x00\x00\x011"
    end = b"C\x00" + commit.to_bytes(8, "big") + (commit + 8).to_bytes(8, "big") + bytes(8)
    return [begin, b"R" + bytes(20), insert, end]


def stream(messages: list[bytes]) -> bytes:
    return b"".join(copy_stream.frame(message, first=number == 0) for number, message in enumerate(messages))


def write(folder: Path, commit: int = 100, extra: int = 0, after: Segment | None = None, piece: int = 7) -> Segment:
    folder.mkdir(exist_ok=True)
    messages = [message for n in range(extra + 1) for message in some_messages(commit + 10 * n)]
    content = stream(messages)
    header = Header(1, "42", after.sha256 if after else None, CHANGES, commit, commit + 10 * extra + 8, len(messages))
    with contextlib.closing(segment.Writer(folder)) as writer:
        for start in range(0, len(content), piece):
            writer.take(content[start : start + piece])
        begin, end = writer.whole()
        assert (begin.commit, end.end) == (header.first, header.last)
        return writer.finish(header, after.path if after else None)


def test_a_segment_reads_back_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "BLOCK_BYTES", 40)
    monkeypatch.setattr(segment, "BLOCKS_WAITING", 1)
    written = write(tmp_path, extra=1)
    found = segment.read(written.path)
    assert found == written
    assert found.path.name == "0000000000000064-0000000000000076.segment"
    assert len(list(segment.blocks(found.path))) > 2
    assert list(segment.messages(found)) == some_messages(100) + some_messages(110)
    assert segment.transactions(found) == 2
    assert found.header.size == len(stream(some_messages(100) + some_messages(110)))
    assert not list(tmp_path.glob(".new*"))


def test_what_was_written_without_zstd_reads_the_same_and_the_other_way_round_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modern = write(tmp_path / "modern")
    with monkeypatch.context() as patch:
        patch.setattr(codec, "ZSTD", None)
        plain = write(tmp_path / "plain")
        assert list(segment.messages(plain)) == some_messages(100)
        with pytest.raises(SegmentCorrupt, match="by zstd"):
            list(segment.messages(modern))
    assert list(segment.messages(plain)) == list(segment.messages(modern)) == some_messages(100)
    assert plain.path.read_bytes() != modern.path.read_bytes()


def test_nothing_takes_the_place_of_a_segment(tmp_path: Path) -> None:
    first = write(tmp_path)
    with pytest.raises(SegmentConflict, match="keep all of them"):
        write(tmp_path)
    write(tmp_path, commit=200, after=first)
    with pytest.raises(SegmentConflict, match="keep all of them"):
        write(tmp_path, commit=150, after=first)
    assert not list(tmp_path.glob(".new*"))


def test_two_runs_never_write_at_once(tmp_path: Path) -> None:
    with (
        segment.alone(tmp_path / "log"),
        pytest.raises(segment.LogInUse, match="Another run"),
        segment.alone(tmp_path / "log"),
    ):
        pass
    with segment.alone(tmp_path / "log"):
        pass


@pytest.mark.parametrize("position", [0, 40, -40, -1])
def test_a_flipped_bit_is_found(tmp_path: Path, position: int) -> None:
    path = write(tmp_path).path
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(SegmentCorrupt, match="SHA-256"):
        segment.read(path)


@pytest.mark.parametrize("length", [0, 10, 100])
def test_a_torn_segment_is_found(tmp_path: Path, length: int) -> None:
    path = write(tmp_path).path
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SegmentCorrupt):
        segment.read(path)


def test_a_segment_under_another_name_is_found(tmp_path: Path) -> None:
    path = write(tmp_path).path
    moved = path.rename(path.with_name("0000000000000001-0000000000000002.segment"))
    with pytest.raises(SegmentCorrupt, match="not named after"):
        segment.read(moved)


def sealed(path: Path, body: bytes, **changed: object) -> Segment:
    """A file whose SHA-256 is right, with `body` for its blocks."""
    line = json.dumps(json.loads(_header(path)) | changed).encode()
    content = body + struct.pack("!I", 0) + line + struct.pack("!I", len(line))
    path.write_bytes(content + hashlib.sha256(content).digest())
    return segment.read(path)


def _header(path: Path) -> bytes:
    content = path.read_bytes()[:-32]
    (length,) = struct.unpack("!I", content[-4:])
    return content[-4 - length : -4]


def block(content: bytes) -> bytes:
    packed = zlib.compress(content)
    return segment.MAGIC + struct.pack("!I", len(packed)) + packed


def test_a_well_sealed_file_with_wrong_content_is_found(tmp_path: Path) -> None:
    path = write(tmp_path).path
    begin, relation, insert, commit = some_messages(100)
    damaged = stream(some_messages(100))
    for body in (
        b"not the magic\n\n",
        segment.MAGIC + struct.pack("!I", 3) + b"abc",
        segment.MAGIC + struct.pack("!I", 8) + bytes.fromhex("28b52ffd") + b"abcd",
        block(damaged[:-1]),
        block(damaged.replace(b"d\x00\x00\x00\x24", b"x\x00\x00\x00\x24")),
        block(stream(some_messages(100)[:3])),
        block(stream([some_messages(100)[0], *some_messages(100)])),
        block(stream(some_messages(100)[2:])),
        block(damaged.replace(b"\x00\x01\x00\x00\x00\x1a", b"\x00\x02\x00\x00\x00\x1a")),
    ):
        with pytest.raises(SegmentCorrupt, match="cannot be read"):
            segment.transactions(sealed(path, body))
    for messages in ([begin, insert, commit], [begin, relation, insert, insert, commit], some_messages(90)):
        with pytest.raises(SegmentCorrupt, match="other transactions"):
            segment.transactions(sealed(path, block(stream(messages))))
    with pytest.raises(SegmentCorrupt, match="no header that can be read"):
        sealed(path, block(damaged), unheard_of=1)


def test_what_is_not_whole_transactions_is_never_written() -> None:
    begin, relation, insert, commit = some_messages(100)
    for messages in ([begin], [begin, insert], [insert, commit], [relation], [commit], [begin, commit[:-1]]):
        content = stream(messages)
        with pytest.raises(MessageUnknown):
            copy_stream.ends(content[: copy_stream.HEAD_BYTES], content[-copy_stream.TAIL_BYTES :])
    for message in (b"", b"S", b"B\x00", b"I"):
        with pytest.raises(MessageUnknown):
            decode(message)
