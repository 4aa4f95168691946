"""A mailbox in shared memory: one process writes the newest message, another reads it without ever waiting.

vLLM's `schedule()` looks for a new plan here. Looking costs one comparison; there is no lock, no system call and no
thread beside the scheduler that could hold Python's global lock when the next iteration is due.

Layout: sequence number (odd while a message is written), length, CRC-32, message. A reader that catches the writer
in the act finds an odd or changed number, or a wrong checksum, and takes the message on its next look.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib

_HEADER = struct.Struct("<QII")
_SEQUENCE = struct.Struct("<Q")


class Mailbox:
    """One end of the mailbox; `fd` can be handed to a child process, which opens its own end on it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, 0)
        self._seen = 0

    @classmethod
    def create(cls, capacity: int = 1 << 22) -> Mailbox:
        """A new mailbox for messages of up to `capacity` bytes."""
        fd = os.memfd_create("slosgate-plan")
        os.ftruncate(fd, _HEADER.size + capacity)
        return cls(fd)

    def write(self, message: bytes) -> None:
        """Replace the message. Raises ValueError when it is larger than the mailbox."""
        end = _HEADER.size + len(message)
        if end > len(self._memory):
            raise ValueError(f"a message of {len(message)} bytes does not fit a mailbox of {len(self._memory)}")
        (sequence,) = _SEQUENCE.unpack_from(self._memory)
        _SEQUENCE.pack_into(self._memory, 0, sequence + 1)
        self._memory[_HEADER.size : end] = message
        _HEADER.pack_into(self._memory, 0, sequence + 1, len(message), zlib.crc32(message))
        _SEQUENCE.pack_into(self._memory, 0, sequence + 2)

    def read(self) -> bytes | None:
        """The message if there is a new and whole one, else None."""
        if _SEQUENCE.unpack_from(self._memory)[0] == self._seen:
            return None
        sequence, length, checksum = _HEADER.unpack_from(self._memory)
        message = self._memory[_HEADER.size : _HEADER.size + length]
        whole = sequence % 2 == 0 and zlib.crc32(message) == checksum
        if not whole or _SEQUENCE.unpack_from(self._memory)[0] != sequence:
            return None
        self._seen = sequence
        return message

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)
