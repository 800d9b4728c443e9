"""A container's stdin, stdout and stderr over one socket, as the engine's attach call gives them.

Bytes to the socket are stdin; bytes from it are frames of an 8-byte header (stream, 0, 0, 0, length) and a payload.
"""

import selectors
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

STDOUT, STDERR = 1, 2
_HEADER = struct.Struct(">BxxxL")
_CHUNK_BYTES = 1 << 16


class FrameDecoder:
    """Cuts the byte stream into (stream, payload) pairs, wherever the network has cut it."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take the next bytes, and give the frames that are complete now."""
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            stream, length = _HEADER.unpack_from(self._pending)
            end = _HEADER.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[_HEADER.size : end])
            del self._pending[:end]
            yield stream, payload


class Attachment:
    """Writes all of `stdin`, then end of file unless `hold_stdin`, and reads output: neither side blocks the other."""

    def __init__(
        self,
        connection: socket.socket,
        stdin: bytes,
        sinks: dict[int, Callable[[bytes], object]],
        *,
        hold_stdin: bool = False,
    ) -> None:
        self._connection = connection
        self._connection.setblocking(False)
        self._stdin = memoryview(stdin)
        self._sinks = sinks
        self._decoder = FrameDecoder()
        self._writing = True
        self._hold_stdin = hold_stdin

    def pump(self, timeout_seconds: float) -> bool:
        """Move what can be moved, waiting at most the timeout. False once the container has closed its output."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._writing else 0)
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, wanted)
            ready = selector.select(timeout_seconds)
        happened = ready[0][1] if ready else 0
        if happened & selectors.EVENT_WRITE:
            self._write()
        return self._read() if happened & selectors.EVENT_READ else True

    def leave(self) -> None:
        """Take nothing more: the engine then throws away what the container still puts out, instead of waiting."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _write(self) -> None:
        try:
            if self._stdin:
                self._stdin = self._stdin[self._connection.send(self._stdin[:_CHUNK_BYTES]) :]
            if not self._stdin:
                self._writing = False
                if not self._hold_stdin:
                    self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            self._writing = False  # the worker is gone or has closed its stdin; its own exit tells why

    def _read(self) -> bool:
        try:
            data = self._connection.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        for stream, payload in self._decoder.feed(data):
            if (sink := self._sinks.get(stream)) is not None:
                sink(payload)
        return bool(data)
