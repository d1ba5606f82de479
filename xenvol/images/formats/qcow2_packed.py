"""A compressed cluster of a qcow2 is unfolded to a cluster's size, whatever it would unfold to, or refused.

What is behind the packed bytes is not looked at: the format counts them in whole sectors.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

from xenvol.images.sources.compression import zstd_library

_DEFLATE_WINDOW: Final = -15  # raw; QEMU writes with -12, which this reads too, and others' writers with more
_ZSTD_WINDOW: Final = 23  # 8 MiB, which every reader should take (RFC 8878, 3.1.1.1.2), and four clusters

Expand = Callable[[bytes, int], bytes]
"""(what is packed, with more behind it; the cluster's size) → the cluster. Raises BadCluster."""


class BadCluster(Exception):  # made an InvalidImage of where its place is known
    """What was compressed is no cluster; says why."""


def inflate(packed: bytes, size: int) -> bytes:
    decompressor = zlib.decompressobj(_DEFLATE_WINDOW)
    try:
        data = decompressor.decompress(packed, size)
        more = b"" if decompressor.eof else decompressor.decompress(decompressor.unconsumed_tail, 1)
    except zlib.error as error:
        raise BadCluster(f"cannot be unfolded: {error}") from error
    return _whole(data, more, size)


def zstd_expander(name: str) -> Expand:
    zstd = zstd_library(name, format="qcow2 (zstd)")
    options = {zstd.DecompressionParameter.window_log_max.value: _ZSTD_WINDOW}

    def expand(packed: bytes, size: int) -> bytes:
        decompressor = zstd.ZstdDecompressor(options=options)
        try:
            data = decompressor.decompress(packed, size)
            more = b"" if decompressor.eof else decompressor.decompress(b"", 1)
        except zstd.ZstdError as error:
            raise BadCluster(f"cannot be unfolded: {error}") from error
        return _whole(data, more, size)

    return expand


def _whole(data: bytes, more: bytes, size: int) -> bytes:
    if len(data) < size:
        raise BadCluster(f"has {len(data)} bytes, and a cluster has {size}")
    if more:
        raise BadCluster(f"has more than the {size} bytes of a cluster")
    return data
