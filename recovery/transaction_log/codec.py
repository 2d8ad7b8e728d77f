"""How blocks of the log are compressed: zstd where Python has it (3.14, or the package backports.zstd), zlib elsewhere.

A block says by its first bytes which of the two it is, so either reads what the other has written, if it has zstd.
"""

import importlib
import zlib
from types import ModuleType


def _zstd() -> ModuleType | None:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


ZSTD = _zstd()
NAME = "zlib" if ZSTD is None else "zstd"
ZSTD_LEVEL, ZLIB_LEVEL = 1, 1
"""Higher ones cost several times the time for a tenth of the bytes, or none."""
ZSTD_HASH_BITS = 12
"""A table that stays in the processor's nearest cache: less time than with the level's own, and 2 % fewer bytes."""
_FRAME = bytes.fromhex("28b52ffd")


def compress(block: bytes | bytearray) -> bytes:
    """One block; other threads run meanwhile."""
    if ZSTD is None:
        return zlib.compress(block, ZLIB_LEVEL)
    of = ZSTD.CompressionParameter
    return bytes(ZSTD.compress(block, options={of.compression_level: ZSTD_LEVEL, of.hash_log: ZSTD_HASH_BITS}))


def decompress(packed: bytes) -> bytes:
    """A block as it was; ValueError when it is damaged, or when this Python cannot read it."""
    if not packed.startswith(_FRAME):
        try:
            return zlib.decompress(packed)
        except zlib.error as error:
            raise ValueError(str(error)) from error
    if ZSTD is None:
        raise ValueError("it is compressed by zstd: read it with Python 3.14, or install backports.zstd")
    try:
        return bytes(ZSTD.decompress(packed))
    except ZSTD.ZstdError as error:
        raise ValueError(str(error)) from error
