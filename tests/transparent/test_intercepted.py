"""With `--intercept-tls`: HTTPS to a policy's host is governed, other TLS is not touched."""

import contextlib
import socket
import ssl

import pytest

from tests.transparent import pods
from tests.transparent.conversation import (
    CLIENT_ENDS,
    SERVER_ENDS,
    Silence,
    byte_by_byte,
    client,
    client_at_last,
    converse,
    server,
)
from tests.transparent.tls import client_hello, der, echoing
from tests.world import DASHSCOPE_KEY, wait_for

HTTPS = 443
CHAT = '{"messages": [{"role": "user", "content": "hi"}]}'
CALL = b"POST / HTTP/1.1\r\nHost: dashscope.aliyuncs.com\r\nContent-Length: %d\r\n\r\n%s" % (len(CHAT), CHAT.encode())
HEAD = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"

HELLO = client_hello("other.example")
LONG_HELLO = client_hello("other.example", alpn=[f"p{number:0200}" for number in range(100)])

CONVERSATIONS = {
    "another host": [client(HELLO), server(b"\x16\x03\x03 to begin with"), client(b"\x17\x03\x03")],
    "another host, byte by byte": [client(*byte_by_byte(HELLO[:40]), HELLO[40:]), server(b"\x15\x03\x03")],
    "another host, a long hello in pieces": [client(LONG_HELLO[:9000], LONG_HELLO[9000:]), server(b"\x15\x03\x03")],
    "no name": [client(client_hello(None)), server(b"\x16\x03\x03")],
    "what only begins like TLS": [client(b"\x16\x03\x01\x00\x05hello"), server(b"what?")],
    "what only begins like TLS, then waits": [client(b"\x16\x03\x01\x00\x00"), server(b"what?")],
    "a silence first": [Silence(0.5), client(HELLO), server(b"\x16\x03\x03")],
    "an end right after": [client_at_last(HELLO), server(b"\x15\x03\x03")],
    "an end in the middle": [client_at_last(HELLO[:50]), server(b"\x15\x03\x03")],
    "an end in the middle, later": [Silence(0.5), client_at_last(HELLO[:50]), server(b"\x15\x03\x03")],
    "the server ends first": [client(HELLO), server(b"\x15\x03\x03"), SERVER_ENDS, client(b"\x15\x03\x03")],
    "no TLS at all": [client(b"\0\0"), server(b"\x01")],
    "a greeting": [server(b"220 ready\r\n"), client(b"EHLO x\r\n"), server(b"250 x\r\n"), CLIENT_ENDS],
    "a greeting, then TLS with a policy's host": [
        server(b"220\r\n"),
        client(client_hello("api.moonshot.cn")),
        server(b"\x16"),
    ],
    "a request in the clear": [client(HEAD), server(b"HTTP/1.1 400 Bad Request\r\n\r\n")],
}


@pytest.fixture(scope="module")
def shared_pod(shared_outside):
    # What is not a provider is verified by mitmproxy, which knows only the CAs that it is told.
    verify = f"ssl_verify_upstream_trusted_ca={shared_outside.authority.ca_file}"
    with pods.pod(shared_outside, "--intercept-tls", "on", run=("--intercept-tls", "--set", verify)) as pod:
        yield pod


@pytest.fixture
def ca(pod):
    """The CA that the pod's apps are told to trust."""
    return str(pod.ca_file)


def tls(pod: pods.Pod, ca: str, server_name: str, address: str) -> ssl.SSLSocket:
    return ssl.create_default_context(cafile=ca).wrap_socket(pod.connect(address, HTTPS), server_hostname=server_name)


@pytest.mark.parametrize(("flag", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
def test_an_https_client_is_governed(outside, pod, ca, flag, version):
    shown = ("-w", "%{http_version} %{http_code}", "-o", "/dev/null")
    answer = pod.curl(flag, "--cacert", ca, *shown, "https://dashscope.aliyuncs.com", "-d", CHAT)

    [received] = outside.dashscope.requests
    assert answer.stdout == f"{version} 200"
    assert received.path == "/compatible-mode/v1/chat/completions"
    assert received.header("authorization") == f"Bearer {DASHSCOPE_KEY}"
    assert received.json["model"] == "qwen1.5-72b-chat"


@pytest.mark.parametrize("flag", ["--http1.1", "--http2"])
def test_a_virtual_host_is_governed_over_https(outside, pod, ca, flag):
    answer = pod.curl(flag, "--cacert", ca, "https://demo-llm-server/v1/chat/completions", "-d", CHAT)

    assert "hello from" in answer.stdout
    assert len(outside.dashscope.requests) + len(outside.moonshot.requests) == 1


def test_plain_http_is_governed_as_well(outside, pod):
    pod.curl("http://dashscope.aliyuncs.com", "-d", CHAT)

    assert [received.json["model"] for received in outside.dashscope.requests] == ["qwen1.5-72b-chat"]


def test_a_client_that_does_not_trust_the_proxy_is_not_governed(outside, pod):
    answer = pod.curl(
        "--cacert", str(outside.authority.ca_file), "https://dashscope.aliyuncs.com", "-d", CHAT, check=False
    )

    assert answer.returncode == 60
    assert outside.dashscope.requests == []


@pytest.mark.parametrize("steps", [pytest.param(steps, id=name) for name, steps in CONVERSATIONS.items()])
def test_what_names_no_policys_host_is_as_without_redirection(outside, pod, steps):
    with outside.listen(HTTPS) as origin:
        direct = converse(pod, origin, steps, uid=pods.PROXY_UID)
        redirected = converse(pod, origin, steps, uid=pods.APP_UID)

    assert redirected == direct


@pytest.mark.parametrize("server_name", ["other.example", "203.0.113.30"])
def test_tls_to_another_host_is_with_the_server_itself(outside, pod, server_name):
    certificate = outside.authority.issue("other.example", pods.ORIGIN)

    with outside.listen(HTTPS) as origin, echoing(origin, certificate) as echo:
        with tls(pod, str(outside.authority.ca_file), server_name, pods.ORIGIN) as connection:
            connection.sendall(b"hello")
            answer = connection.recv(100)
            presented = connection.getpeercert(binary_form=True)
        echo.result()

    assert answer == b"hello"
    assert presented == der(certificate)


@pytest.mark.parametrize("hello", [HELLO, HELLO[:50]], ids=["whole", "half"])
def test_a_server_that_is_slow_to_accept_hears_tls_that_was_said_meanwhile(outside, pod, hello):
    with outside.listen(HTTPS) as origin, outside.silenced(pods.ORIGIN, HTTPS) as speak_again:
        near = pod.connect(pods.ORIGIN, HTTPS)
        wait_for(lambda: pod.dialling_from(HTTPS))
        pod.send_in_pieces(near, [hello])
        near.shutdown(socket.SHUT_WR)
        speak_again()
        with origin.accept()[0] as far:
            heard = pods.read_all(far)
            far.sendall(b"answer")
            answer = near.recv(100)

    assert (heard, answer) == (hello, b"answer")


@pytest.mark.parametrize("address", [pods.DEAD, pods.REFUSING, pods.UNREACHABLE, pods.ORIGIN_IPV6])
def test_the_address_that_the_app_means_does_not_matter(outside, pod, ca, address):
    client = pod.connect(address, HTTPS)
    heard = pods.readable(client, 0.5)
    with ssl.create_default_context(cafile=ca).wrap_socket(client, server_hostname="dashscope.aliyuncs.com") as secured:
        secured.sendall(CALL)
        answer = secured.recv(65536)

    assert not heard
    assert b" 200 " in answer


def test_a_server_at_that_address_may_speak_and_give_up_meanwhile(outside, pod, ca):
    with outside.listen(HTTPS) as origin, pod.connect(pods.ORIGIN, HTTPS) as near:
        with origin.accept()[0] as far:  # opened for a greeting that does not come
            context = ssl.create_default_context(cafile=ca)
            secured = context.wrap_socket(near, server_hostname="dashscope.aliyuncs.com")
            far.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        secured.sendall(CALL)
        answer = secured.recv(65536)
        secured.close()

    assert b" 200 " in answer


def test_another_host_behind_a_policys_name_gets_what_the_app_sent(outside, pod, ca):
    answer = pod.curl(
        *("--cacert", ca, "https://dashscope.aliyuncs.com/v1/models?x=1", "-H", "Host: other.example"),
        *("-H", "Authorization: Bearer own", "-w", "%{http_code}"),
    )

    [received] = outside.dashscope.requests
    assert (received.method, received.path, received.server_name) == ("GET", "/v1/models?x=1", "dashscope.aliyuncs.com")
    assert (received.header("host"), received.header("authorization")) == ("other.example", "Bearer own")
    assert "invalid_api_key" in answer.stdout
    assert "other.example" not in {record["host"] for record in pod.recorded()}


def test_a_refused_connection_ends_the_handshake(pod, ca):
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        tls(pod, ca, "other.example", pods.REFUSING)


def test_http3_is_refused_at_once_so_that_clients_turn_to_tcp(pod):
    app = pod.make_socket(pods.DASHSCOPE, kind=socket.SOCK_DGRAM)
    with app:
        app.connect((pods.DASHSCOPE, HTTPS))
        with contextlib.suppress(PermissionError):
            app.send(b"a QUIC Initial, say")
        with pytest.raises(ConnectionRefusedError):
            app.recv(100)
