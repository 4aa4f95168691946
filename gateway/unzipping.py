"""Content-Encoding gzip and deflate, as HTTP has them (RFC 9110 8.4.1), whoever sends them.

A gzip body may have several members, one behind the other (RFC 1952 2.2). `deflate` means the zlib format, but some
senders leave its header out, which every common reader forgives.
"""

from __future__ import annotations

import zlib

ENCODINGS = (b"gzip", b"x-gzip", b"deflate")
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Unzip:
    """Feed it what comes of one body."""

    def __init__(self, encoding: bytes) -> None:
        self._is_gzip = encoding != b"deflate"
        self._stream: zlib._Decompress | None = None

    @property
    def complete(self) -> bool:
        """Whether what came so far may be all."""
        return self._stream is None or self._stream.eof

    def feed(self, data: bytes, most: int) -> bytes:
        """What `data` adds, but only the beginning if that is `most` bytes or more. Raises zlib.error."""
        parts = []
        while data and most > 0:
            stream = self._member(data)
            part = stream.decompress(data, most)
            parts.append(part)
            most -= len(part)
            data = stream.unused_data if stream.eof else stream.unconsumed_tail
        return b"".join(parts)

    def _member(self, data: bytes) -> zlib._Decompress:
        """What reads `data`: a new member begins where the one before has ended."""
        if self._stream is None or self._stream.eof:
            if self._stream is not None and not self._is_gzip:
                raise zlib.error("more follows its end")
            kind = _GZIP if self._is_gzip else _ZLIB if data[0] & 0x0F == zlib.DEFLATED else _RAW
            self._stream = zlib.decompressobj(kind)
        return self._stream
