import itertools
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import openai
import pytest

from sidestream.demo.behaviour import SettingsError
from sidestream.demo.received import read_journal
from sidestream.demo.standin import running
from tests.demo.conftest import CHAT, CHAT_STREAM

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


def chat(settings="", *, body=CHAT):
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, f"x-standin: {settings}", "", ""]).encode() + body


def read_all(connection):
    return b"".join(iter(lambda: connection.recv(65536), b""))


# --- the SDK -------------------------------------------------------------------------------------


def test_the_sdk_gets_an_answer(standin, openai_client):
    completion = openai_client(standin).chat.completions.create(model="qwen-max", messages=MESSAGES)

    assert completion.choices[0].message.content == "hello from dashscope: model=qwen-max"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_the_sdk_gets_a_stream_with_usage(standin, openai_client):
    stream = openai_client(standin).chat.completions.create(
        model="qwen-max", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )

    *chunks, last = list(stream)

    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == "hello from dashscope: model=qwen-max"
    assert last.choices == []
    assert last.usage.completion_tokens == 9


@pytest.mark.parametrize("settings", ["split=1", "gzip=1", "crlf=1", "comments=1", "split=1 gzip=1 crlf=1 comments=1"])
def test_the_sdk_reads_every_form_of_stream(standin, openai_client, settings):
    client = openai_client(standin, settings=f"{settings} length=200")
    whole = client.chat.completions.create(model="m", messages=MESSAGES)

    stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)

    said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == whole.choices[0].message.content
    assert len(said) == 200
    assert "🌊" in said


def test_the_sdk_assembles_a_tool_call(standin, openai_client):
    with openai_client(standin).chat.completions.stream(model="m", messages=MESSAGES, tools=TOOLS) as stream:
        completion = stream.get_final_completion()

    [call] = completion.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["text"] == "hello from dashscope: model=m"


def test_the_sdk_gets_a_tool_call(standin, openai_client):
    completion = openai_client(standin).chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS)

    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.choices[0].message.tool_calls[0].function.name == "get_weather"


def test_the_sdk_gets_embeddings_in_both_encodings(standin, openai_client):
    client = openai_client(standin)

    packed = client.embeddings.create(model="m", input=["a", "b"])
    floats = client.embeddings.create(model="m", input=["a", "b"], encoding_format="float")

    assert standin.requests[0].json["encoding_format"] == "base64"
    assert [e.embedding for e in packed.data] == [e.embedding for e in floats.data]


def test_the_sdk_lists_models(standin, openai_client):
    assert [model.id for model in openai_client(standin).models.list()] == ["dashscope-large", "dashscope-small"]


def test_the_sdk_gets_a_completion(standin, openai_client):
    client = openai_client(standin)
    whole = client.completions.create(model="m", prompt="hi")

    stream = client.completions.create(model="m", prompt="hi", stream=True)

    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_the_sdk_gets_a_response(standin, openai_client):
    client = openai_client(standin)
    whole = client.responses.create(model="m", input="hi")

    with client.responses.stream(model="m", input="hi") as stream:
        streamed = stream.until_done().get_final_response()

    assert streamed.output_text == whole.output_text == "hello from dashscope: model=m"
    assert streamed.usage.output_tokens == 8


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("status=400", openai.BadRequestError),
        ("status=401", openai.AuthenticationError),
        ("status=429 retry-after=2", openai.RateLimitError),
        ("status=500", openai.InternalServerError),
        ("status=529", openai.InternalServerError),
    ],
)
def test_the_sdk_understands_errors(standin, openai_client, settings, error):
    with pytest.raises(error, match="dashscope was asked to answer"):
        openai_client(standin, settings=settings).chat.completions.create(model="m", messages=MESSAGES)


def test_the_sdk_understands_an_error_event(standin, openai_client):
    client = openai_client(standin, settings="error-event=2")
    stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)

    with pytest.raises(openai.APIError, match="The server had an error"):
        list(stream)


def test_a_refused_key_is_401_and_recorded(certificate, openai_client):
    with running(certificate, api_keys=["sk-right"]) as standin:
        with pytest.raises(openai.AuthenticationError):
            openai_client(standin, api_key="sk-wrong").models.list()
        openai_client(standin, api_key="sk-right").models.list()

        assert [r.header("authorization") for r in standin.requests] == ["Bearer sk-wrong", "Bearer sk-right"]


# --- what it remembers ---------------------------------------------------------------------------


def test_a_request_is_remembered_as_it_came(standin, connect):
    before = time.monotonic()
    connection = connect(standin, server_name="dashscope.standin.test")
    connection.sendall(b"POST /Nowhere?q=%20 HTTP/1.1\r\nHost: h:1\r\nX-Twice: 1\r\nx-twice: 2\r\n")
    connection.sendall(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n1\r\n\xff\r\n2\r\nab\r\n0\r\n\r\n")
    answered = read_all(connection)

    [request] = standin.requests

    assert answered.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert (request.method, request.path, request.body) == ("POST", "/Nowhere?q=%20", b"\xffab")
    assert request.headers[:3] == [("host", "h:1"), ("x-twice", "1"), ("x-twice", "2")]
    assert request.server_name == "dashscope.standin.test"
    assert before < request.at < time.monotonic()


def test_plain_http_has_no_server_name(plain, curl):
    assert curl(f"{plain.url}/v1/chat/completions").returncode == 0
    assert plain.requests[0].server_name is None


def test_connections_are_kept_and_told_apart(standin, openai_client):
    first, second = openai_client(standin), openai_client(standin)

    for client in (first, first, second, first):
        client.models.list()

    a, b, c, d = (request.connection for request in standin.requests)
    assert a == b == d != c
    assert standin.connections_open == 2


def test_closed_connections_are_noticed(standin, connect):
    connection = connect(standin)
    standin.wait_for(lambda s: s.connections_open == 1)

    connection.close()

    standin.wait_for(lambda s: s.connections_open == 0)
    assert standin.aborted == 0


def test_the_tag_comes_back(standin, curl):
    answered = curl(f"{standin.url}/v1/chat/completions", "-i", "-H", "x-request-tag: t-1")

    assert b"x-request-tag: t-1\r\n" in answered.stdout
    assert b"tag=t-1" in answered.stdout


def test_clearing_forgets(standin, curl):
    curl(f"{standin.url}/v1/chat/completions")

    standin.clear()

    assert standin.requests == []


def test_waiting_in_vain_says_what_was_seen(plain, curl):
    curl(f"{plain.url}/nowhere")

    with pytest.raises(TimeoutError, match=r"requests \['POST /nowhere'\]"):
        plain.wait_for(lambda s: s.aborted > 0, timeout=0.01)


# --- behaviour -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "body", "code"),
    [
        ("cut=3", CHAT_STREAM, 18),  # curl: the body ended early
        ("cut=3", CHAT, 18),
        ("reset=3", CHAT_STREAM, 56),  # curl: could not receive
        ("reset=3", CHAT, 56),
        ("close=before", CHAT, 52),  # curl: the server said nothing
        ("close=reset", CHAT, 56),
    ],
)
@pytest.mark.parametrize("provider", ["standin", "plain"])
def test_connections_break(request, provider, curl, settings, body, code):
    provider = request.getfixturevalue(provider)

    broken = curl(f"{provider.url}/v1/chat/completions", "-H", f"x-standin: {settings}", body=body)

    assert broken.returncode == code
    assert (b"data:" in broken.stdout) == (body == CHAT_STREAM)
    provider.wait_for(lambda s: s.connections_open == 0)
    assert provider.aborted == 0


def test_a_cut_stream_has_the_events_before_it(standin, curl):
    broken = curl(f"{standin.url}/v1/chat/completions", "-H", "x-standin: cut=3", body=CHAT_STREAM)

    assert broken.stdout.count(b"data: ") == 1 + 3


def test_a_reset_is_a_reset(plain, connect):
    connection = connect(plain)
    connection.sendall(chat("close=reset"))

    with pytest.raises(ConnectionResetError):
        read_all(connection)


@pytest.mark.parametrize("provider", ["standin", "plain"])
@pytest.mark.parametrize(
    ("settings", "body"),
    [("stall=1", CHAT_STREAM), ("stall=1", CHAT), ("gap=60", CHAT_STREAM)],
)
def test_a_client_that_leaves_is_noticed(request, provider, connect, settings, body):
    provider = request.getfixturevalue(provider)
    connection = connect(provider)
    connection.sendall(chat(settings, body=body))
    assert connection.recv(20).startswith(b"HTTP/1.1 200 OK")

    connection.close()

    provider.wait_for(lambda s: s.aborted == 1)
    provider.wait_for(lambda s: s.connections_open == 0)


def test_a_client_that_resets_before_the_first_byte_is_noticed(plain, connect):
    connection = connect(plain)
    connection.sendall(chat("first-byte=60"))
    plain.wait_for(lambda s: len(s.requests) == 1)

    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

    plain.wait_for(lambda s: s.aborted == 1)


def test_a_client_that_stops_reading_and_leaves_is_noticed(plain, connect):
    connection = connect(plain)
    connection.sendall(chat("events=1000 length=20000000", body=CHAT_STREAM))
    assert connection.recv(20).startswith(b"HTTP/1.1 200 OK")

    connection.close()

    plain.wait_for(lambda s: s.aborted == 1, timeout=20)


def test_the_first_byte_and_gaps_take_their_time(plain, curl):
    timed = [
        "-H",
        "x-standin: first-byte=0.2 gap=0.05 events=4",
        "-o",
        "-",
        "-w",
        "\n%{time_starttransfer} %{time_total}",
    ]

    first, total = curl(f"{plain.url}/v1/chat/completions", *timed, body=CHAT_STREAM).stdout.split(b"\n")[-1].split()

    assert float(first) >= 0.2
    assert float(total) >= 0.2 + 6 * 0.05


@pytest.mark.parametrize(("settings", "announced"), [("connection=close", True), ("connection=drop", False)])
def test_the_connection_closes_after_the_answer(standin, connect, settings, announced):
    connection = connect(standin)
    connection.sendall(chat(settings))

    answered = read_all(connection)

    assert answered.endswith(b"}}")
    assert (b"connection: close" in answered.lower()) == announced


@pytest.mark.parametrize("settings", ["stats=500", "cut=1 stall=1"])
def test_a_mistaken_setting_is_400(standin, openai_client, settings):
    with pytest.raises(openai.BadRequestError, match="x-standin: "):
        openai_client(standin, settings=settings).chat.completions.create(model="m", messages=MESSAGES)


def test_behaviour_is_set_for_all_and_the_header_wins(standin, openai_client):
    standin.behave("status=503")

    with pytest.raises(openai.InternalServerError):
        openai_client(standin).models.list()
    assert openai_client(standin, settings="status=200").models.list()

    standin.behave()

    assert openai_client(standin).models.list()


def test_behaviour_is_set_for_a_number_of_requests(standin, openai_client):
    standin.behave("status=503 retry-after=0", times=2)

    openai_client(standin, retries=2).models.list()

    assert len(standin.requests) == 3


def test_setting_a_mistaken_behaviour_is_refused(standin):
    with pytest.raises(SettingsError, match="unknown setting 'stats'"):
        standin.behave("stats=503")


def test_hanging_up_closes_idle_connections(standin, connect):
    connection = connect(standin)
    standin.wait_for(lambda s: s.connections_open == 1)

    standin.hang_up()

    assert connection.recv(1) == b""
    standin.wait_for(lambda s: s.connections_open == 0)


def test_hanging_up_is_not_the_client_leaving(standin, connect):
    connection = connect(standin)
    connection.sendall(chat("stall=0", body=CHAT_STREAM))
    assert connection.recv(20)

    standin.hang_up()

    standin.wait_for(lambda s: s.connections_open == 0)
    assert standin.aborted == 0


# --- HTTP ----------------------------------------------------------------------------------------


def test_a_request_that_arrives_byte_by_byte_is_whole(plain, connect):
    connection = connect(plain)
    for byte in itertools.batched(chat("connection=close"), 1):
        connection.sendall(bytes(byte))

    assert b"hello from local" in read_all(connection)
    assert plain.requests[0].body == CHAT


def test_pipelined_requests_are_answered_in_order(plain, connect):
    connection = connect(plain)
    connection.sendall(chat() * 2 + chat("connection=close"))

    assert read_all(connection).count(b"HTTP/1.1 200 OK") == 3


def test_a_large_body_with_expect_continue_arrives(standin, curl):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 3_000_000}]})

    answered = curl(f"{standin.url}/v1/chat/completions", "-H", "expect: 100-continue", body="@-", stdin=body)

    assert b"hello from" in answered.stdout
    assert len(standin.requests[0].body) == len(body)


def test_an_odd_target_is_404(plain, connect):
    connection = connect(plain)
    connection.sendall(b"POST //[ HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")

    assert read_all(connection).startswith(b"HTTP/1.1 404")
    assert plain.requests[0].path == "//["


def test_a_tag_that_is_not_ascii_comes_back(plain, connect):
    connection = connect(plain)
    connection.sendall("GET /models HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-request-tag: é\r\n\r\n".encode())

    assert "\r\nx-request-tag: é\r\n".encode() in read_all(connection)


def test_a_head_request_gets_no_body(plain, connect):
    connection = connect(plain)
    connection.sendall(b"HEAD / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")

    assert read_all(connection).endswith(b"\r\n\r\n")


def test_what_is_no_http_is_400(plain, connect):
    connection = connect(plain)
    connection.sendall(b"\x00\x01nonsense\r\n\r\n")

    assert read_all(connection).startswith(b"HTTP/1.1 400")
    assert plain.requests == []


def test_a_client_that_leaves_in_its_request_is_not_recorded(plain, connect):
    connection = connect(plain)
    connection.sendall(chat()[:-5])
    plain.wait_for(lambda s: s.connections_open == 1)

    connection.close()

    plain.wait_for(lambda s: s.connections_open == 0)
    assert (plain.requests, plain.aborted) == ([], 0)


def test_many_clients_at_once(standin, openai_client):
    client = openai_client(standin, settings="gap=0.001")
    said = []

    def converse(number):
        stream = client.chat.completions.create(model=f"m-{number}", messages=MESSAGES, stream=True)
        said.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))

    threads = [threading.Thread(target=converse, args=[number]) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(said) == sorted(f"hello from dashscope: model=m-{number}" for number in range(50))
    assert standin.aborted == 0


# --- running it ----------------------------------------------------------------------------------


def test_a_taken_port_is_told_to_the_caller(plain):
    with pytest.raises(OSError, match="address already in use"), running(port=plain.port):
        pass


def test_it_stops_with_clients_connected(certificate, connect):
    before = set(threading.enumerate())
    with running(certificate) as standin:
        connection = connect(standin)
        connection.sendall(chat("stall=0", body=CHAT_STREAM))
        assert connection.recv(20)

    read_all(connection)

    assert set(threading.enumerate()) <= before


def test_ipv6(certificate, curl):
    with running(certificate, host="::1") as standin:
        assert standin.url == f"https://[::1]:{standin.port}"
        assert curl(f"{standin.url}/v1/chat/completions").returncode == 0


@pytest.fixture
def process(certificate, tmp_path):
    """Run the stand-in as a process; gives it, its URL and its journal."""
    command = [sys.executable, "-m", "sidestream.demo.standin", "--listen", "127.0.0.1:0", "--name", "moonshot"]
    command += ["--cert", certificate.cert_file, "--key", certificate.key_file]
    command += ["--api-key", "sk-1", "--api-key", "sk-2", "--journal", tmp_path / "journal"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running_process:
        line = running_process.stdout.readline()
        yield running_process, line.split()[-1], line, tmp_path / "journal"
        running_process.kill()


def test_a_process_says_where_it_listens(process):
    _, url, line, _ = process

    assert line == f"moonshot listening on {url}\n"
    assert url.startswith("https://127.0.0.1:")


def test_a_process_keeps_a_journal(process, curl):
    _, url, _, journal = process

    answered = curl(f"{url}/v1/chat/completions", "-H", "authorization: Bearer sk-2")

    [request] = read_journal(journal)
    assert b"hello from moonshot" in answered.stdout
    assert (request.path, request.body) == ("/v1/chat/completions", CHAT)


def test_a_process_stops_quietly_on_sigterm(process, curl):
    running_process, *_ = process

    running_process.send_signal(signal.SIGTERM)

    assert running_process.wait(timeout=30) == 0
    assert running_process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--cert", "c.pem"], "--cert and --key go together"), (["--listen", "here"], "HOST:PORT expected")],
)
def test_mistaken_arguments_are_refused(arguments, message):
    refused = subprocess.run(
        [sys.executable, "-m", "sidestream.demo.standin", *arguments], capture_output=True, text=True, check=False
    )

    assert refused.returncode == 2
    assert message in refused.stderr
