"""Clients that tell what they saw of an answer, to its end: over HTTP/1 and HTTP/2, one connection for each call."""

import contextlib
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h11

from tests.wire import TIMEOUT_SECONDS, tunnel
from tests.world import Proxy

PATH = "/v1/chat/completions"
_DATA = re.compile(rb"^data: ?([^\r\n]*)", re.MULTILINE)


@dataclass
class Seen:
    """
    What a client saw of one answer.

    `client`: its address, as the record has it. `is_broken`: the answer ended without being complete.
    """

    client: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_broken: bool = False

    @property
    def is_stream(self) -> bool:
        is_readable = "content-encoding" not in self.headers
        return is_readable and self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def events(self) -> list[bytes]:
        """The data of the events, without that of an error of Sidestream's own."""
        return [data for data in _DATA.findall(self.body) if b"sidestream_error" not in data]

    @property
    def told(self) -> str:
        """All of it in a line: the status, what was said, how it ended."""
        words = [str(self.status)]
        if (after := self.headers.get("retry-after")) is not None:
            words.append(f"retry-after:{after}")
        if (encoding := self.headers.get("content-encoding")) is not None:
            words.append(f"{encoding}:{len(self.body)}")
        elif self.is_stream:
            said = ""
            for data in _DATA.findall(self.body):
                said, words = _tell(data, said, words)
            words += [said] if said else []
        elif self.body:
            words.append(_tell_whole(self.headers.get("content-type", ""), self.body))
        return " ".join([*words, *(["broken"] if self.is_broken else [])])


def _tell(data: bytes, said: str, words: list[str]) -> tuple[str, list[str]]:
    if data == b"[DONE]":
        return "", [*words, *([said] if said else []), "DONE"]
    try:
        event = json.loads(data)
    except ValueError:
        return said, [*words, "half an event"]
    if "error" in event:
        return "", [*words, *([said] if said else []), event["error"]["code"]]
    return said + "".join(choice["delta"].get("content") or "" for choice in event["choices"]), words


def _tell_whole(content_type: str, body: bytes) -> str:
    if content_type != "application/json":
        return content_type
    try:
        answer = json.loads(body)
    except ValueError:
        return "half an object"
    return answer["error"]["code"] if "error" in answer else answer["choices"][0]["message"]["content"]


def ask_http1(proxy: Proxy, host: str, body: bytes, heard: Callable[[], object]) -> Seen:
    """POST `body`; call `heard` when the first bytes of an answer's body are there."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_SECONDS) as client:
        seen = Seen(_address(client))
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1024 * 1024)
        fields = [("host", host), ("content-type", "application/json"), ("content-length", str(len(body)))]
        head = http.send(h11.Request(method="POST", target=f"http://{host}{PATH}", headers=fields))
        client.sendall(head + http.send(h11.Data(body)) + http.send(h11.EndOfMessage()))
        try:
            while not isinstance(event := http.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    http.receive_data(client.recv(65536))
                elif isinstance(event, h11.Response):
                    seen.status = event.status_code
                    seen.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    seen.body += event.data
                    heard()
                else:
                    assert not isinstance(event, h11.ConnectionClosed), "an answer comes first"
        except (h11.RemoteProtocolError, ConnectionError):
            seen.is_broken = True
    return seen


def ask_http2(proxy: Proxy, ca_file, host: str, body: bytes, heard: Callable[[], object]) -> Seen:
    """POST `body` over HTTP/2 within a tunnel."""
    with tunnel(proxy, ca_file, host) as client:
        seen = Seen(_address(client))
        http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        http.initiate_connection()
        head = {":method": "POST", ":scheme": "https", ":authority": host, ":path": PATH}
        http.send_headers(1, [*head.items(), ("content-type", "application/json")])
        http.send_data(1, body, end_stream=True)
        client.sendall(http.data_to_send())
        is_over = False
        while not is_over:
            received = client.recv(65536)
            events = http.receive_data(received) if received else [h2.events.ConnectionTerminated()]
            for event in events:
                match event:
                    case h2.events.ResponseReceived():
                        seen.headers = dict(event.headers)
                        seen.status = int(seen.headers.pop(":status"))
                    case h2.events.DataReceived():
                        seen.body += event.data
                        http.acknowledge_received_data(event.flow_controlled_length, 1)
                        heard()
                    case h2.events.StreamEnded():
                        is_over = True
                    case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                        is_over = seen.is_broken = True
            with contextlib.suppress(ConnectionError):
                client.sendall(http.data_to_send())
    return seen


def _address(client: socket.socket) -> str:
    return ":".join(map(str, client.getsockname()))
