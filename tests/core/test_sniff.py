import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidestream.core.sniff import MAX_HEAD_BYTES, Http, Incomplete, Opaque, Tls, sniff
from tests.core.builders import places

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.moonshot.cn\r\nContent-Length: 2\r\n\r\n"
CLIENT_HELLO = bytes.fromhex("160301020001")
FRAGMENTS = (
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"GET ",
    b"POST ",
    b"PRI ",
    b"/",
    b"*",
    b"http://u@a.example/x",
    b" HTTP/1.1",
    b" HTTP/2.0",
    b"Host: api.moonshot.cn",
    b"host:b.example",
    b"X: y",
    b":",
    b"\x16\x03",
    b"\x01",
    b"\x00\xff",
    b"\r\n\r\n",
)
first_bytes = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=10).map(b"".join)


def head_of(size):
    """Return a request head of `size` bytes."""
    start, end = b"GET / HTTP/1.1\r\nHost: a.example\r\nX: ", b"\r\n\r\n"
    return start + b"x" * (size - len(start) - len(end)) + end


@pytest.mark.parametrize(
    ("data", "hosts"),
    [
        (HEAD, ("api.moonshot.cn",)),
        (HEAD + b"{}", ("api.moonshot.cn",)),
        (HEAD + b"\r\n\r\nHost: b.example\r\n\r\n", ("api.moonshot.cn",)),
        (b"GET / HTTP/1.0\r\n\r\n", ()),
        (b"GET / HTTP/1.1\nHost: a.example\n\n", ("a.example",)),
        (b"GET / HTTP/1.1\r\nHost: a.example\n\r\n", ("a.example",)),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\n\n", ("a.example",)),
        (b"GET / HTTP/1.1\n\n", ()),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", ("a.example",)),
        (b"\n\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", ("a.example",)),
        (b"GET / HTTP/1.1\r\nHOST:a.example\r\n\r\n", ("a.example",)),
        (b"GET / HTTP/1.1\r\nhOsT: \t a.example:80 \t\r\n\r\n", ("a.example:80",)),
        (b"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", ("a.example",)),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", ("",)),
        (b"GET / HTTP/1.1\r\nHost: A.example.\r\n\r\n", ("A.example.",)),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\nHost: b.example\r\n\r\n", ("a.example", "b.example")),
        (b"GET / HTTP/1.1\r\nX-Host: a.example\r\nNoHost: b.example\r\n\r\n", ()),
        (b"GET / HTTP/1.1\r\nX: y\r\n\r\nHost: a.example\r\n\r\n", ()),
        (b"GET /Host:a.example HTTP/1.1\r\n\r\n", ()),
        (b"GET http://a.example/x HTTP/1.1\r\n\r\n", ("a.example",)),
        (b"GET http://a.example:80/x HTTP/1.1\r\nHost: b.example\r\n\r\n", ("a.example:80", "b.example")),
        (b"GET HTTPS://A.example?x HTTP/1.1\r\n\r\n", ("A.example",)),
        (b"GET http://u:p@x@a.example#x HTTP/1.1\r\n\r\n", ("a.example",)),
        (b"GET http://[::1]:80/ HTTP/1.1\r\n\r\n", ("[::1]:80",)),
        (b"GET /http://a.example/ HTTP/1.1\r\n\r\n", ()),
        (b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", ("a.example",)),
        (b"QUERY / HTTP/1.1\r\nHost: a.example\r\n\r\n", ("a.example",)),
        (b"GET / HTTP/1.1\r\nHost: \xe6\xa8\xa1.example\r\n\r\n", ("模.example",)),
        (b"GET / HTTP/1.1\r\nHost: \xff.example\r\n\r\n", ("\ufffd.example",)),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c\r\n\r\n", ("a.example",)),
    ],
)
def test_a_complete_head_tells_every_host_it_names(data, hosts):
    assert sniff(data) == Http(hosts)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "QUERY"])
def test_every_usual_method_is_http(method):
    assert sniff(f"{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()) == Http(("a.example",))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"G",
        b"PO",
        b"POST",
        b"POST ",
        b"\r",
        b"\r\n",
        b"\r\n\r\nGE",
        b"GET key",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n\r",
        b"GET / HTTP/1.1\r\nHost: a.example",
        b"GET / HTTP/1.1\r\nHost: a.example\r\n",
        HEAD[:-1],
        HEAD[:-2],
        b"\x16",
        b"\x16\x03",
    ],
)
def test_what_may_become_http_or_tls_waits(data):
    assert sniff(data) == Incomplete()


def test_a_connect_is_meant_for_a_proxy_of_the_apps_own():
    head = b"CONNECT dashscope.aliyuncs.com:443 HTTP/1.1\r\nHost: dashscope.aliyuncs.com:443\r\n\r\n"

    assert sniff(head) == Opaque()


@pytest.mark.parametrize("data", [CLIENT_HELLO[:3], CLIENT_HELLO, b"\x16\x03\x03", CLIENT_HELLO + b"x" * 100_000])
def test_a_handshake_record_is_tls(data):
    assert sniff(data) == Tls()


@pytest.mark.parametrize(
    "data",
    [
        b"GET key\r\n",
        b"GET key\n",
        b"GET \r\n",
        b"GET / HTTP/1.1 \r\n",
        b"GET / HTTP/1.1\r\r\n",
        b"GET  / HTTP/1.1\r\n",
        b"GET / x HTTP/1.1\r\n",
        b"GET / HTTP/1\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET / http/1.1\r\n",
        b"GET\t/ HTTP/1.1\r\n",
        b"get / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"Post / HTTP/1.1\r\n\r\n",
        b"PROPFIND / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PI",
        b"PING\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"EHLO a.example\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x00",
        b"\x16\x02\x01",
        b"\x17\x03\x03",
        b"\x80\x2e\x01\x03\x01",
        b"\xef\xbb\xbfGET / HTTP/1.1\r\n\r\n",
        b" GET / HTTP/1.1\r\n\r\n",
        b"\r\n\x16\x03\x01",
        b"\r\n\r\nSSH-",
        b"\xff" * 100_000,
    ],
)
def test_anything_else_is_opaque_at_once(data):
    assert sniff(data) == Opaque()


def test_a_head_of_the_largest_size_is_http():
    assert sniff(head_of(MAX_HEAD_BYTES)) == Http(("a.example",))


def test_a_larger_head_is_opaque():
    assert sniff(head_of(MAX_HEAD_BYTES + 1)) == Opaque()


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nX: ",
        b"GET /",
        b"\r\n",
        b"\n",
        b"\r\n\r\nPOST / HTTP/1.1\r\nX: ",
        b"GET / HTTP/1.1\r\nX: y\n",
    ],
)
def test_nothing_is_waited_for_past_the_bound(start):
    endless = start * (MAX_HEAD_BYTES if start.isspace() else 1) + b"x: y " * MAX_HEAD_BYTES

    assert sniff(endless[:MAX_HEAD_BYTES]) == Incomplete()
    assert sniff(endless[: MAX_HEAD_BYTES + 1]) == Opaque()
    assert sniff(endless) == Opaque()


def test_leading_newlines_count_towards_the_bound():
    assert sniff(b"\r\n" + head_of(MAX_HEAD_BYTES - 2)) == Http(("a.example",))
    assert sniff(b"\r\n" + head_of(MAX_HEAD_BYTES - 1)) == Opaque()


@pytest.mark.timeout(20)  # quadratic time would take minutes
@pytest.mark.parametrize(
    "field",
    [b"Host: a%sb", b"Host%s", b"Host%s:", b"Host: %s\r", b"%sHost: a", b"Host:%s\rb"],
)
def test_blanks_in_a_host_take_linear_time(field):
    blanks = b" " * (MAX_HEAD_BYTES - 100)

    assert isinstance(sniff(b"GET / HTTP/1.1\r\n" + field % blanks + b"\r\n\r\n"), Http)


@settings(max_examples=300)
@given(first_bytes.flatmap(lambda data: st.tuples(st.just(data), places(data))))
@example((HEAD, list(range(len(HEAD)))))
@example((CLIENT_HELLO, list(range(len(CLIENT_HELLO)))))
@example((b"\r\n\r\nGET / HTTP/1.1\n\r\n\r\n\n", list(range(24))))
def test_what_was_told_once_stays_true(data_and_places):
    data, cuts = data_and_places

    told = [sniff(data[:place]) for place in [*sorted(cuts), len(data)]]

    certain = [answer for answer in told if answer != Incomplete()]
    assert told == [Incomplete()] * (len(told) - len(certain)) + certain
    assert len(set(certain)) <= 1


@pytest.mark.parametrize("more", [-1, 0, 1, 2])
@pytest.mark.parametrize("newlines", [0, 1, 2])
def test_what_was_told_at_the_bound_stays_true(more, newlines):
    data = b"\n" * newlines + head_of(MAX_HEAD_BYTES - newlines + more)

    told = sniff(data[:MAX_HEAD_BYTES])
    later = sniff(data)

    assert told in (Incomplete(), later)
    assert later == sniff(data + b"\r\n\r\n")
    assert isinstance(later, Opaque if more > 0 else Http)


@given(first_bytes | st.binary())
def test_any_bytes_are_something(data):
    assert isinstance(sniff(data), Incomplete | Tls | Http | Opaque)


@given(st.sampled_from([b"\r\n", b"\n"]), st.lists(st.sampled_from(["a.example", "b.example:80", "[::1]"]), max_size=4))
def test_no_host_of_a_head_is_missed(end, hosts):
    fields = b"".join(f"Host: {host}".encode() + end for host in hosts)

    assert sniff(b"GET / HTTP/1.1" + end + fields + end) == Http(tuple(hosts))
