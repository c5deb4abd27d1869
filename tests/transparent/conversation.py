"""
A conversation over one TCP connection: scripted, and heard at both ends.

What one end says is awaited at the other before the script goes on. So a script needs no
clock, and bytes that are lost, changed or held back end it.
"""

import select
import socket
import struct
from dataclasses import dataclass, field

from tests.transparent.pods import PROXY_UID, Pod, read_all

SENDS_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 seconds: closing sends a reset."""


@dataclass(frozen=True, slots=True)
class Says:
    """One end says `pieces`, each in a segment of its own; with `last`, it ends right after."""

    by_client: bool
    pieces: tuple[bytes, ...]
    last: bool = False


@dataclass(frozen=True, slots=True)
class Ends:
    """One end has no more to say; it goes on to listen."""

    by_client: bool


@dataclass(frozen=True, slots=True)
class Resets:
    """One end breaks the connection off."""

    by_client: bool


@dataclass(frozen=True, slots=True)
class Silence:
    """Nobody says anything for `seconds`. Without redirection they make no difference and are left out."""

    seconds: float


type Step = Says | Ends | Resets | Silence


def client(*pieces: bytes) -> Says:
    return Says(by_client=True, pieces=pieces)


def client_at_last(*pieces: bytes) -> Says:
    return Says(by_client=True, pieces=pieces, last=True)


def server(*pieces: bytes) -> Says:
    return Says(by_client=False, pieces=pieces)


def server_at_last(*pieces: bytes) -> Says:
    return Says(by_client=False, pieces=pieces, last=True)


def byte_by_byte(content: bytes) -> list[bytes]:
    return [content[at : at + 1] for at in range(len(content))]


CLIENT_ENDS = Ends(by_client=True)
SERVER_ENDS = Ends(by_client=False)
CLIENT_RESETS = Resets(by_client=True)
SERVER_RESETS = Resets(by_client=False)


@dataclass(slots=True)
class Heard:
    """What both ends heard, in order: bytes, ``end`` or ``reset``."""

    at_client: list[bytes | str] = field(default_factory=list)
    at_server: list[bytes | str] = field(default_factory=list)


def converse(pod: Pod, listener: socket.socket, steps: list[Step], *, uid: int) -> Heard:
    """
    Let an app of `uid` talk to the server of `listener` by the script `steps`, to the end of both.

    Raises:
        TimeoutError: something that was said was not heard.
    """
    with pod.connect(*listener.getsockname()[:2], uid=uid) as near:
        conversation = _Conversation(pod, near, listener, is_redirected=uid != PROXY_UID)
        try:
            for step in steps:
                conversation.play(step)
            conversation.finish()
        finally:
            conversation.close()
    return conversation.heard


class _Conversation:
    """`near` is the client's end, `far` the server's, once there is one."""

    def __init__(self, pod: Pod, near: socket.socket, listener: socket.socket, *, is_redirected: bool) -> None:
        self.heard = Heard()
        self._pod = pod
        self._near = near
        self._near_port = near.getsockname()[1]
        self._listener = listener
        self._is_redirected = is_redirected
        self._accepted: socket.socket | None = None

    @property
    def _far(self) -> socket.socket:
        if self._accepted is None:
            self._accepted, peer = self._listener.accept()
            self._accepted.settimeout(self._listener.gettimeout())
            self._accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert (peer[1] != self._near_port) is self._is_redirected, "this took the wrong way"
        return self._accepted

    def play(self, step: Step) -> None:
        match step:
            case Silence(seconds):
                ends = [end for end in (self._near, self._accepted) if end is not None]
                spoke, _, _ = select.select(ends, [], [], seconds if self._is_redirected else 0)
                assert not spoke, f"heard something in {step}"
            case Says(by_client, pieces, last):
                self._say(by_client, pieces)
                if last:
                    self._speaker(by_client).shutdown(socket.SHUT_WR)
                self._listen(by_client, None if last else sum(map(len, pieces)))
            case Ends(by_client):
                self._speaker(by_client).shutdown(socket.SHUT_WR)
                self._listen(by_client, None)
            case Resets(by_client):
                end = self._speaker(by_client)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SENDS_RESET)
                end.close()
                self._listen(by_client, None)

    def finish(self) -> None:
        """End both sides, if they have not; what else was said is heard."""
        if "reset" in (*self.heard.at_client, *self.heard.at_server) or -1 in (self._near.fileno(), self._far.fileno()):
            return
        for by_client in (True, False):
            heard, speaker = self._heard_from(by_client), self._speaker(by_client)
            if "end" not in heard:
                speaker.shutdown(socket.SHUT_WR)
                heard += [rest, "end"] if (rest := read_all(self._listener_of(by_client))) else ["end"]

    def close(self) -> None:
        if self._accepted is not None:
            self._accepted.close()

    def _say(self, by_client: bool, pieces: tuple[bytes, ...]) -> None:
        *first, last = pieces
        speaker = self._speaker(by_client)
        if by_client and self._is_redirected:
            self._pod.send_in_pieces(speaker, first)
        else:
            for piece in first:
                speaker.sendall(piece)
        speaker.sendall(last)

    def _listen(self, by_client: bool, count: int | None) -> None:
        """Hear `count` bytes, or the end."""
        ears, heard, got = self._listener_of(by_client), self._heard_from(by_client), bytearray()
        while count is None or len(got) < count:
            try:
                part = ears.recv(65536)
            except ConnectionResetError:
                heard.append("reset")
                return
            except TimeoutError as e:
                raise TimeoutError(f"the {'server' if by_client else 'client'} heard only {bytes(got)!r}") from e
            if not part:
                heard += [bytes(got), "end"] if got else ["end"]
                assert count is None, f"an end instead of the rest: {self.heard}"
                return
            got += part
        heard.append(bytes(got))

    def _speaker(self, by_client: bool) -> socket.socket:
        return self._near if by_client else self._far

    def _listener_of(self, by_client: bool) -> socket.socket:
        return self._far if by_client else self._near

    def _heard_from(self, by_client: bool) -> list[bytes | str]:
        return self.heard.at_server if by_client else self.heard.at_client
