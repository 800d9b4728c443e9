import socket
import struct
import threading

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.attachment import STDERR, STDOUT, Attachment, FrameDecoder


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


@given(
    frames=st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=50)), max_size=8),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=5),
)
def test_frames_come_out_whole_however_the_bytes_are_cut(frames, cuts):
    data = b"".join(frame(stream, payload) for stream, payload in frames)
    decoder, decoded, position, turn = FrameDecoder(), [], 0, 0
    while position < len(data):
        size = cuts[turn % len(cuts)]
        decoded += decoder.feed(data[position : position + size])
        position, turn = position + size, turn + 1

    assert decoded == frames


def test_a_request_larger_than_any_buffer_is_written_while_output_is_read():
    here, there = socket.socketpair()
    request, output = b"r" * 3_000_000, bytearray()
    received = bytearray()

    def engine() -> None:
        for _ in range(50):
            there.sendall(frame(STDOUT, b"o" * 100_000))
        while data := there.recv(1 << 16):
            received.extend(data)
        there.close()

    thread = threading.Thread(target=engine)
    thread.start()
    attachment = Attachment(here, request, {STDOUT: output.extend})
    while attachment.pump(0.1):
        pass
    thread.join()

    assert bytes(received) == request
    assert bytes(output) == b"o" * 5_000_000
