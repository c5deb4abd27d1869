"""What the policy sees of a flow."""

import gzip
import zlib

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.net.http.http1 import assemble_request_head
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import tflow, tutils

from sidestream.mitm.view import (
    MAX_DECODED_BYTES,
    header_values,
    is_well_formed,
    named_hosts,
    read_body,
    redact_credentials,
)


def make_flow(*, mode="transparent", hosts=(b"dashscope.aliyuncs.com",), authority=b"", host="192.0.2.7", **request):
    flow = tflow.tflow(
        req=tutils.treq(host=host, authority=authority, headers=[(b"host", value) for value in hosts], **request)
    )
    flow.client_conn.proxy_mode = ProxyMode.parse(mode)
    flow.server_conn.address = ("192.0.2.7", 80) if mode == "transparent" else None
    return flow


@pytest.mark.parametrize(
    ("flow", "hosts"),
    [
        (make_flow(), {"dashscope.aliyuncs.com"}),
        (make_flow(hosts=[b"DashScope.aliyuncs.com.:8080"]), {"dashscope.aliyuncs.com"}),
        (make_flow(hosts=[b"a.example", b"b.example"]), {"a.example", "b.example"}),
        (make_flow(hosts=[b"a.example", b"A.example"]), {"a.example"}),
        (make_flow(hosts=[], authority=b"a.example:80"), {"a.example"}),
        (make_flow(authority=b"a.example"), {"a.example", "dashscope.aliyuncs.com"}),
        (make_flow(mode="regular", host="dashscope.aliyuncs.com"), {"dashscope.aliyuncs.com"}),
        (make_flow(mode="regular", host="a.example"), {"a.example", "dashscope.aliyuncs.com"}),
        (make_flow(mode="reverse:http://demo", hosts=[b"demo"], authority=b"localhost:9000"), {"demo"}),
        (make_flow(hosts=[b"two words"]), {""}),
    ],
)
def test_every_host_that_a_request_names_is_seen(flow, hosts):
    assert named_hosts(flow) == hosts


def test_values_of_one_header_are_joined_and_names_are_lower_case():
    request = tutils.treq(headers=[(b"X-Tier", b"gold"), (b"x-tier", b"vip")])

    assert header_values(request) == {"x-tier": "gold, vip"}


def test_credentials_are_redacted_and_nothing_else_is():
    request = tutils.treq(headers=[(b"Authorization", b"Bearer sk"), (b"X-Api-Key", b"sk"), (b"x-user", b"u")])

    redact_credentials(request)

    assert header_values(request) == {"authorization": "[redacted]", "x-api-key": "[redacted]", "x-user": "u"}


def test_a_key_in_the_query_goes_with_them():
    request = tutils.treq(path=b"/v1/embeddings?user=\xff&key=sk", headers=[])

    redact_credentials(request)

    assert request.data.path == b"/v1/embeddings?user=\xff"


@pytest.mark.parametrize(
    ("content", "body"),
    [(b'{"messages": []}', {"messages": []}), (b"[]", None), (b"", None), (b"nonsense", None)],
)
def test_a_body_is_read_when_it_is_a_json_object(content, body):
    assert read_body(tutils.treq(content=content)) == body


def test_a_body_in_an_unknown_encoding_is_refused():
    request = tutils.treq(content=b"{}", headers=[(b"content-encoding", b"of-no-kind")])

    with pytest.raises(ValueError, match="of-no-kind"):
        read_body(request)


@pytest.mark.parametrize(
    ("request_", "is_well"),
    [
        (tutils.treq(), True),
        (tutils.treq(path=b"/a b"), False),
        (tutils.treq(method=b"GET /x"), False),
        (tutils.treq(headers=[(b"x", b"a\rb")]), False),
        (tutils.treq(headers=[(b"x", b"a\r\n b")]), False),
        (tutils.treq(headers=[(b"x", b"a\0b")]), False),
    ],
)
def test_a_head_that_could_be_read_as_another_is_not_well_formed(request_, is_well):
    assert is_well_formed(request_) is is_well


def words(alphabet):
    return st.text(alphabet, max_size=4).map(lambda text: text.encode("latin-1"))


heads = st.builds(
    lambda method, path, values: tutils.treq(
        method=method, path=b"/" + path, headers=[(b"host", b"a.example"), *((b"x-a", value) for value in values)]
    ),
    st.sampled_from([b"GET", b"POST", b"get", b"M-SEARCH", b"", b"GET /a", b"GET\r\n"]),
    words("abcdef/?%~[]\x7f \t\0\r\n"),
    st.lists(words("abcdef:,;é ~\t\0\r\n"), max_size=2),
)


@given(heads)
def test_a_well_formed_head_is_read_as_it_was_written(head):
    assert not is_well_formed(head) or reading(assemble_request_head(head)) == writing(head)


def writing(head):
    """Return what a head says: method, target, and its headers without the blanks around them."""
    headers = [(name, value.strip(b" \t")) for name, value in head.headers.fields]
    return head.data.method, head.data.path, headers


def reading(content):
    """Return what a server reads out of `content`."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(content)
    read = server.next_event()
    return read.method, read.target, list(read.headers)


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)]
)
def test_an_encoded_body_is_read(encoding, encode):
    request = tutils.treq(content=encode(b'{"messages": []}'), headers=[(b"content-encoding", encoding.encode())])

    assert read_body(request) == {"messages": []}


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"{}")[:-4], gzip.compress(b" " * (MAX_DECODED_BYTES + 1))],
    ids=["other", "cut", "bomb"],
)
def test_a_body_that_does_not_fit_its_encoding_is_refused(content):
    request = tutils.treq(content=content, headers=[(b"content-encoding", b"gzip")])

    with pytest.raises(ValueError, match="body"):
        read_body(request)
