"""A policy's host is governed however the client speaks, and whatever is at the address it means."""

import json
import socket
from typing import BinaryIO

import pytest

from tests.transparent import pods
from tests.transparent.conversation import byte_by_byte
from tests.world import wait_for

HTTP = 80
BODY = b'{"messages": [{"role": "user", "content": "hi"}]}'
REST = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
CALL = b"POST / HTTP/1.1\r\nHost: dashscope.aliyuncs.com\r\n" + REST

ADDRESSES = {
    "dead": pods.DEAD,
    "unreachable": pods.UNREACHABLE,
    "refusing": pods.REFUSING,
    "the provider's": pods.DASHSCOPE,
    "refusing, IPv6": pods.ORIGIN_IPV6,
}


def answered(client: socket.socket) -> dict:
    """Read one answer that is JSON, with its status."""
    with client.makefile("rb") as answers:
        return receive_answer(answers)


def receive_answer(answers: BinaryIO) -> dict:
    status = int(answers.readline().split()[1])
    headers = dict(line.decode().lower().split(": ", 1) for line in iter(answers.readline, b"\r\n"))
    return {"status": status, **json.loads(answers.read(int(headers["content-length"])))}


@pytest.mark.parametrize(
    "pieces",
    [
        [CALL],
        [CALL[:7], CALL[7:40], CALL[40:]],
        [CALL[: -len(REST)], REST[:-10], REST[-10:]],
        byte_by_byte(CALL),
        [b"\r\n", b"\r\n" + CALL],
        [CALL.replace(b"Host: dashscope.aliyuncs.com", b"hOST:\t DashScope.AliyunCS.com.:80 ")],
        [CALL.replace(b"POST /", b"POST http://dashscope.aliyuncs.com/")],
    ],
    ids=[
        "one piece",
        "three pieces",
        "body apart",
        "byte by byte",
        "empty lines first",
        "host in other words",
        "absolute",
    ],
)
def test_a_call_is_governed_however_it_is_cut_and_spelt(outside, pod, pieces):
    client = pod.connect(pods.DEAD, HTTP)
    pod.send_in_pieces(client, pieces[:-1])
    client.sendall(pieces[-1])

    answer = answered(client)

    assert (answer["status"], answer["model"]) == (200, "qwen1.5-72b-chat")
    assert [received.json["messages"][0]["content"] for received in outside.dashscope.requests] == ["hi"]


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.parametrize("seconds", [0, 0.5])
def test_the_address_that_the_app_means_does_not_matter(pod, address, seconds):
    client = pod.connect(address, HTTP)
    heard = pods.readable(client, seconds)
    client.sendall(CALL)

    assert not heard
    assert answered(client)["status"] == 200


@pytest.mark.parametrize("address", [pods.DEAD, pods.REFUSING])
def test_an_app_may_pause_within_its_first_words(pod, address):
    client = pod.connect(address, HTTP)
    pod.send_in_pieces(client, [CALL[:10]])
    heard = pods.readable(client, 0.5)
    client.sendall(CALL[10:])

    assert not heard
    assert answered(client)["status"] == 200


def test_an_app_may_pause_before_and_within_its_first_words(pod):
    client = pod.connect(pods.DEAD, HTTP)
    wait_for(lambda: pod.dialling_from(HTTP))
    pod.send_in_pieces(client, [CALL[:10]])
    client.sendall(CALL[10:])

    assert answered(client)["status"] == 200


@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"])
def test_a_server_at_that_address_may_give_up_meanwhile(outside, pod, last_words):
    with outside.listen(HTTP) as origin, pod.connect(pods.ORIGIN, HTTP) as client:
        with origin.accept()[0] as far:  # opened for a greeting that does not come
            client.sendall(CALL)
            first = answered(client)
            far.sendall(last_words)
        client.sendall(CALL)
        second = answered(client)

    assert (first["status"], second["status"]) == (200, 200)


def test_calls_may_share_a_connection_and_follow_without_waiting(outside, pod):
    client = pod.connect(pods.DEAD, HTTP)
    client.sendall(CALL + CALL)
    with client.makefile("rb") as answers:
        statuses = [receive_answer(answers)["status"] for _ in range(2)]
        client.sendall(CALL)
        statuses.append(receive_answer(answers)["status"])

    assert statuses == [200, 200, 200]
    assert len({received.connection for received in outside.dashscope.requests}) == 1


def test_another_host_on_the_same_connection_gets_what_the_app_sent(outside, pod):
    request = b"GET /page?q=1 HTTP/1.1\r\nHost: other.example\r\nAuthorization: Bearer own\r\nX-Mine: 1\r\n\r\n"

    with outside.listen(HTTP) as origin, pod.connect(pods.ORIGIN, HTTP) as client:
        client.sendall(CALL)
        governed = answered(client)
        client.sendall(request)
        with origin.accept()[0] as far:
            heard = far.recv(65536)
            far.sendall(b'HTTP/1.1 203 Fine\r\nContent-Length: 13\r\n\r\n{"own": true}')
            answer = answered(client)

    assert governed["status"] == 200
    assert heard == request
    assert answer == {"status": 203, "own": True}


def test_a_silent_app_is_not_kept_for_ever_where_nobody_listens(pod):
    client = pod.connect(pods.REFUSING, HTTP)

    assert pods.reading_ends(client) == "reset"
