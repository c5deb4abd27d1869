import socket
import ssl
import subprocess

import openai
import pytest

from sidestream.demo.certificates import Authority
from sidestream.demo.standin import running

CHAT = b'{"model": "qwen-max", "messages": [{"role": "user", "content": "hi"}]}'
CHAT_STREAM = CHAT[:-1] + b', "stream": true}'


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def certificate(authority):
    return authority.issue("localhost", "*.standin.test", "127.0.0.1", "::1")


@pytest.fixture
def standin(certificate):
    with running(certificate) as provider:
        yield provider


@pytest.fixture
def plain():
    with running(name="local") as provider:
        yield provider


@pytest.fixture
def trust(authority):
    return ssl.create_default_context(cafile=authority.ca_file)


@pytest.fixture
def openai_client(trust):
    """Make SDK clients of a stand-in; they do not retry unless told."""
    opened = []

    def make(standin, *, settings="", retries=0, api_key="sk-test"):
        client = openai.OpenAI(
            base_url=f"{standin.url}/v1",
            api_key=api_key,
            max_retries=retries,
            timeout=30,
            http_client=openai.DefaultHttpxClient(verify=trust),
            default_headers={"x-standin": settings} if settings else {},
        )
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def curl(authority):
    """Run curl against a stand-in; returns the completed process, its output as bytes."""

    def run(url, *arguments, body=CHAT, stdin=None):
        command = ["curl", "-sS", "--max-time", "30", "--noproxy", "*", "--cacert", str(authority.ca_file)]
        command += ["--data-binary", body, *arguments, url]
        return subprocess.run(command, input=stdin.encode() if stdin else None, capture_output=True, check=False)

    return run


@pytest.fixture
def connect(trust):
    """Open raw connections, for what well-behaved clients do not do."""
    opened = []

    def make(standin, *, server_name="localhost"):
        connection = socket.create_connection((standin.host, standin.port), timeout=30)
        if standin.url.startswith("https"):
            connection = trust.wrap_socket(connection, server_hostname=server_name)
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.close()
