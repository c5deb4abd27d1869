"""What passes through may be large, many at a time, slow, one-sided or idle: nothing is lost, kept or cut for it."""

import contextlib
import os
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from sidestream.mitm.engine.relay import KEEP_ALIVE_SECONDS
from sidestream.mitm.engine.transparent import PATIENCE_SECONDS
from tests.transparent import pods
from tests.transparent.conversation import SENDS_RESET
from tests.world import wait_for

HTTP = 80
GIGABYTE = 1_000_000_000
FLAT_BYTES = 32_000_000
"""How much more memory counts as none, for one connection."""

CONNECTIONS = 500

UPLOAD = b"PUT / HTTP/1.1\r\nHost: other.example\r\nContent-Length: 50000000\r\n\r\n"
REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"


class Ears:
    """Hears all that comes, and keeps the sum of it."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = sha256()

    @property
    def heard(self) -> tuple[int, bytes]:
        return self.count, self._sum.digest()

    def hear(self, words: memoryview) -> None:
        self.count += len(words)
        self._sum.update(words)

    def listen(self, connection: socket.socket) -> None:
        """Listen to the end."""
        buffer = memoryview(bytearray(1 << 20))
        while count := connection.recv_into(buffer):
            self.hear(buffer[:count])


def speak(connection: socket.socket, count: int, ears: Ears) -> None:
    """Say `count` bytes that nobody foresees, and end; `ears` hear them, too."""
    block = memoryview(os.urandom(1_000_003))
    for begin in range(0, count, len(block)):
        words = block[: count - begin]
        connection.sendall(words)
        ears.hear(words)
    connection.shutdown(socket.SHUT_WR)


def ends(pod: pods.Pod, origin: socket.socket, *, address: str = pods.ORIGIN, greeted: bool = False):
    """Return both ends of a redirected connection: on which the client has spoken, or (`greeted`) the server."""
    near = pod.connect(address, HTTP)
    if not greeted:
        near.sendall(b"\0")
    far = origin.accept()[0]
    far.settimeout(pods.TIMEOUT_SECONDS)
    if greeted:
        far.sendall(b"\0")
    (near if greeted else far).recv(1)
    return near, far


def test_a_gigabyte_goes_each_way_and_leaves_nothing_behind(outside, pod):
    said_by, heard_by = {"near": Ears(), "far": Ears()}, {"near": Ears(), "far": Ears()}

    with outside.listen(HTTP) as origin, ThreadPoolExecutor(4) as threads:
        near, far = ends(pod, origin)
        before = pods.memory_bytes(pod.proxy.process)
        with far:
            running = [
                threads.submit(speak, near, GIGABYTE, said_by["near"]),
                threads.submit(speak, far, GIGABYTE, said_by["far"]),
                threads.submit(heard_by["near"].listen, near),
                threads.submit(heard_by["far"].listen, far),
            ]
            for each in running:
                each.result()
        after = pods.memory_bytes(pod.proxy.process)

    assert heard_by["far"].heard == said_by["near"].heard
    assert heard_by["near"].heard == said_by["far"].heard
    assert heard_by["near"].count == heard_by["far"].count == GIGABYTE
    assert after - before < FLAT_BYTES


@pytest.mark.parametrize("deaf", ["near", "far"])
def test_one_side_may_listen_only_when_all_it_has_to_say_was_heard(outside, pod, deaf):
    said_by, heard_by = {"near": Ears(), "far": Ears()}, {"near": Ears(), "far": Ears()}

    with outside.listen(HTTP) as origin, ThreadPoolExecutor(3) as threads:
        near, far = ends(pod, origin)
        first, second, second_name = (near, far, "far") if deaf == "near" else (far, near, "near")
        with far:
            running = [
                threads.submit(speak, second, 40_000_000, said_by[second_name]),
                threads.submit(heard_by[second_name].listen, second),
            ]
            speak(first, 40_000_000, said_by[deaf])
            heard_by[deaf].listen(first)
            for each in running:
                each.result()

    assert heard_by["far"].heard == said_by["near"].heard
    assert heard_by["near"].heard == said_by["far"].heard


def test_a_reset_reaches_one_that_does_not_listen(outside, pod):
    with outside.listen(HTTP) as origin:
        near, far = ends(pod, origin)
        with far, ThreadPoolExecutor(1) as thread:
            speaking = thread.submit(speak, near, GIGABYTE, Ears())
            far.setblocking(False)
            while select.select([], [far], [], 0.5)[1]:  # until nobody takes any more
                far.send(bytes(1 << 16))
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SENDS_RESET)
            far.close()
            failure = speaking.exception(pods.TIMEOUT_SECONDS)

    assert isinstance(failure, ConnectionResetError | BrokenPipeError)


def test_an_answer_that_comes_in_the_middle_of_an_upload_is_heard(outside, pod):
    def refuse(far: socket.socket) -> None:
        with far:  # what it has not read by then makes its end a reset
            far.recv(65536)
            far.sendall(REFUSAL)

    with outside.listen(HTTP) as origin, ThreadPoolExecutor(1) as thread:
        answers = []
        for _ in range(20):  # mostly the proxy is just sending when it comes
            near = pod.connect(pods.ORIGIN, HTTP)
            near.sendall(UPLOAD)
            refused = thread.submit(refuse, origin.accept()[0])
            with contextlib.suppress(ConnectionError):
                speak(near, 50_000_000, Ears())
            answers.append(near.recv(len(REFUSAL)))
            refused.result()

    assert set(answers) == {REFUSAL}


def test_connections_may_be_idle_for_longer_than_any_patience(outside, pod):
    with outside.listen(HTTP) as origin:
        spoken_to, greeted, half_closed = ends(pod, origin), ends(pod, origin, greeted=True), ends(pod, origin)
        half_closed[0].shutdown(socket.SHUT_WR)
        half_closed[1].recv(1)
        everyone = [end for pair in (spoken_to, greeted) for end in pair] + [half_closed[0]]
        spoke, _, _ = select.select(everyone, [], [], PATIENCE_SECONDS + 1)
        for near, far in (spoken_to, greeted):
            near.sendall(b"still here?")
            far.sendall(far.recv(100) + b" yes")
        half_closed[1].sendall(b"still here? yes")
        answers = [near.recv(100) for near, _ in (spoken_to, greeted, half_closed)]
        for _, far in (spoken_to, greeted, half_closed):
            far.close()

    assert spoke == []
    assert answers == [b"still here? yes"] * 3


def test_a_server_is_probed_while_a_connection_is_idle(outside, pod):
    with outside.listen(HTTP) as origin:
        _, far = ends(pod, origin)
        with far:
            port = far.getpeername()[1]
            remaining = wait_for(lambda: pod.seconds_to_probe(port))

    assert KEEP_ALIVE_SECONDS / 2 < remaining <= KEEP_ALIVE_SECONDS


def test_five_hundred_connections_at_a_time_are_all_heard(outside, pod):
    questions = [b"\0 question %d" % number for number in range(CONNECTIONS)]

    with outside.listen(HTTP, backlog=CONNECTIONS) as origin:
        clients = [pod.begin_to_connect(pods.ORIGIN, HTTP) for _ in questions]
        for client, question in zip(clients, questions, strict=True):
            client.settimeout(pods.TIMEOUT_SECONDS)
            select.select([], [client], [], pods.TIMEOUT_SECONDS)
            client.sendall(question)
        for _ in clients:
            with origin.accept()[0] as far:
                far.settimeout(pods.TIMEOUT_SECONDS)
                far.sendall(far.recv(100).replace(b"question", b"answer"))
        answers = [pods.read_all(client) for client in clients]

    assert answers == [question.replace(b"question", b"answer") for question in questions]
