"""Decompress gzip, bzip2, xz and zstd in pieces of bounded size: no I/O, and no memory but their own windows."""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Any, Final, Protocol

GZIP_MAGIC: Final = b"\x1f\x8b"  # RFC 1952 2.3.1
_BZIP2_FIRST: Final = (b"1AY&SY", b"\x17rE8P\x90")  # after ``BZh`` and a digit: a block, or the end at once
XZ_MAGIC: Final = b"\xfd7zXZ\x00"
_XZ_MEMORY: Final = 128 << 20  # bytes; `xz -9` needs 65 MiB, larger dictionaries must be asked for
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"  # RFC 8878 3.1.1
_FRAME_HEADER: Final = 18  # bytes of a frame's header, at most
WINDOW_LOG: Final = 25  # 32 MiB; `zstd -19` needs 8 MiB, --long and --ultra need 128 MiB and more


class BadCompression(Exception):  # becomes an InvalidImage, which names the image
    """The compressed bytes are damaged. The text says how."""


class TooLargeWindow(Exception):  # becomes an UnsupportedImage
    """Decompression would need this many bytes of memory."""


def is_bzip2(start: bytes) -> bool:
    """Return whether bzip2 begins with these ten bytes."""
    return start[:3] == b"BZh" and start[3:4] in b"123456789" and start[4:10] in _BZIP2_FIRST


class Expander(Protocol):
    """Decompresses one format. A stream may have several members (gzip) or frames (zstd), one after the other."""

    format: str

    def feed(self, data: bytes, /) -> None:
        """Take more compressed bytes. Call it once `is_hungry`."""
        ...

    def expand(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none if it needs more input. Raises BadCompression."""
        ...

    @property
    def is_hungry(self) -> bool:
        """Return whether it has used all its input."""
        ...

    @property
    def is_complete(self) -> bool:
        """Return whether the stream may end here: after a whole member."""
        ...


class Gzip:
    """RFC 1952: members one after the other, each with its own checksum and length; zeros may follow the last."""

    format = "gzip"

    def __init__(self) -> None:
        self._member: Any = None  # zlib's object; its type has no public name
        self._data = b""
        self._is_padding = False
        self._is_first = True

    def feed(self, data: bytes, /) -> None:
        self._data += data

    def expand(self, size: int, /) -> bytes:
        while True:
            if self._member is None and not self._begin():
                return b""
            try:
                output: bytes = self._member.decompress(self._data, size)
            except zlib.error as error:
                raise BadCompression(str(error)) from error
            if self._member.eof:
                self._data = self._member.unused_data
                self._member = None
            else:
                self._data = self._member.unconsumed_tail
                if not output and self._data:  # never seen; it prevents an endless loop
                    raise BadCompression("it does not go on")
            if output or not (self._data or self._member is None):
                return output

    def _begin(self) -> bool:
        """Return whether a member begins here."""
        if not self._is_first and (self._is_padding or self._data[:1] == b"\0"):
            self._is_padding = True
            if self._data.strip(b"\0"):
                raise BadCompression("bytes follow its end")
            self._data = b""
        if not self._data:
            return False
        if not self._is_first and not GZIP_MAGIC.startswith(self._data[:2]):
            raise BadCompression("bytes follow its end")
        self._is_first = False
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)  # + 16: with gzip's header and trailer
        return True

    @property
    def is_hungry(self) -> bool:
        return not self._data

    @property
    def is_complete(self) -> bool:
        return self._member is None


class _Streams:
    """Streams one after the other, each with a decompressor of its own, which keeps the input that it has not used."""

    def __init__(self) -> None:
        self._stream: Any = None
        self._data = b""

    def feed(self, data: bytes, /) -> None:
        self._data += data

    def expand(self, size: int, /) -> bytes:
        while True:
            if self._stream is None and not self._begin():
                return b""
            data, self._data = self._data, b""
            output = self._decompress(data, size)
            if self._stream.eof:
                self._data = self._stream.unused_data
                self._stream = None
            elif not output and not self._stream.needs_input:  # never seen; it prevents an endless loop
                raise BadCompression("it does not go on")
            if output or self._stream is not None:
                return output

    def _begin(self) -> bool:
        """Return whether a stream begins here, and make its decompressor."""
        if not self._data:
            return False
        self._stream = self._decompressor()
        return True

    def _decompressor(self) -> Any:
        raise NotImplementedError

    def _decompress(self, data: bytes, size: int) -> bytes:
        """Give the stream its input; return at most `size` bytes. Raises BadCompression."""
        raise NotImplementedError

    @property
    def is_hungry(self) -> bool:
        return not self._data and (self._stream is None or self._stream.needs_input)

    @property
    def is_complete(self) -> bool:
        return self._stream is None


class Xz(_Streams):
    """The .xz format: streams one after the other, with zeros in fours between and behind them."""

    format = "xz"

    def __init__(self) -> None:
        super().__init__()
        self._padding = 0  # zeros since the last stream
        self._is_first = True

    def _begin(self) -> bool:
        if not self._is_first:
            rest = self._data.lstrip(b"\0")
            self._padding += len(self._data) - len(rest)
            self._data = rest
        if not self._data:
            return False
        if self._padding % 4 or not XZ_MAGIC.startswith(self._data[: len(XZ_MAGIC)]):
            raise BadCompression("bytes follow its end")
        self._is_first = False
        self._padding = 0
        return super()._begin()

    def _decompressor(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def _decompress(self, data: bytes, size: int) -> bytes:
        try:
            output: bytes = self._stream.decompress(data, size)
        except lzma.LZMAError as error:
            if "emory" in str(error):
                raise TooLargeWindow(_XZ_MEMORY) from error
            raise BadCompression(str(error)) from error
        return output

    @property
    def is_complete(self) -> bool:
        return self._stream is None and self._padding % 4 == 0


class Bzip2(_Streams):
    """Streams one after the other, as `pbzip2` and `cat` make them."""

    format = "bzip2"

    def _decompressor(self) -> bz2.BZ2Decompressor:
        return bz2.BZ2Decompressor()

    def _decompress(self, data: bytes, size: int) -> bytes:
        try:
            output: bytes = self._stream.decompress(data, size)
        except OSError as error:
            raise BadCompression("its data is damaged, or bytes follow its end") from error
        return output


class Zstd(_Streams):
    """RFC 8878: frames one after the other, some of which are skipped."""

    format = "zstd"

    def __init__(self, library: Any) -> None:
        super().__init__()
        self._library = library
        self._head = b""  # the beginning of the frame

    def _decompressor(self) -> Any:
        self._head = b""
        options = {self._library.DecompressionParameter.window_log_max: WINDOW_LOG}
        return self._library.ZstdDecompressor(options=options)

    def _decompress(self, data: bytes, size: int) -> bytes:
        self._head += data[: _FRAME_HEADER - len(self._head)]
        try:
            output: bytes = self._stream.decompress(data, size)
        except self._library.ZstdError as error:
            if (window := window_of(self._head)) > 1 << WINDOW_LOG:
                raise TooLargeWindow(window) from error
            raise BadCompression(str(error)) from error
        return output


def window_of(frame: bytes) -> int:
    """Return the bytes of memory that a zstd frame with this beginning needs (RFC 8878 3.1.1.1); 0 if unknown."""
    if len(frame) < _FRAME_HEADER or not frame.startswith(ZSTD_MAGIC):
        return 0
    descriptor = frame[4]
    if not descriptor & 0x20:
        exponent, mantissa = frame[5] >> 3, frame[5] & 7
        return (1 << (10 + exponent)) // 8 * (8 + mantissa)
    start = 5 + (0, 1, 2, 4)[descriptor & 3]  # after the dictionary's number; the window is the whole content
    size = (1, 2, 4, 8)[descriptor >> 6]
    return int.from_bytes(frame[start : start + size], "little") + (256 if size == 2 else 0)


def is_skippable(magic: bytes) -> bool:
    return len(magic) == 4 and magic[0] & 0xF0 == 0x50 and magic[1:] == b"\x2a\x4d\x18"  # RFC 8878 3.1.2
