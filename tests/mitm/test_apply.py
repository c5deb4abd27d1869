"""A plan, applied to a flow."""

from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from sidestream.core.errors import ClientError
from sidestream.core.planning import Attempt
from sidestream.core.secret import CREDENTIAL_HEADERS, Secret
from sidestream.core.snapshot import Endpoint
from sidestream.mitm.apply import answer, apply

KEY = "sk-marker-apply"
TLS = Endpoint("dashscope.aliyuncs.com", 443, "dashscope.aliyuncs.com", server_name="dashscope.aliyuncs.com")
PLAIN = Endpoint("127.0.0.1", 11434, "ollama.local", tls=False)

CREDENTIALS = (b"Authorization", b"api-key", b"X-API-Key")
FRAMING = (b"content-length", b"Transfer-Encoding", b"Content-Encoding")
HOP_BY_HOP = (b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE")

attempts = st.builds(
    Attempt,
    st.sampled_from([TLS, PLAIN]),
    st.sampled_from(["/v1/chat/completions", "/compatible-mode/v1/chat/completions?a=b"]),
    st.just((("host", "dashscope.aliyuncs.com"), ("content-type", "application/json"))),
    st.just(CREDENTIAL_HEADERS),
    st.none() | st.binary(max_size=50),
    st.none() | st.just(Secret(KEY)),
)


def make_flow(**headers):
    flow = tflow.tflow()
    flow.request.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return flow


fields = st.tuples(
    st.sampled_from([*CREDENTIALS, b"Host", b"host", b"Content-Type", b"x-tier", *FRAMING, *HOP_BY_HOP]),
    st.sampled_from([b"sk-clients-own", b"chunked", b"gzip", b"close", b"5"]),
)
requests = st.fixed_dictionaries(
    {
        "host": st.sampled_from(["192.0.2.7", "dashscope.aliyuncs.com", ""]),
        "port": st.sampled_from([80, 443, 8080]),
        "method": st.sampled_from([b"GET", b"POST"]),
        "scheme": st.sampled_from([b"http", b"https", b""]),
        "authority": st.sampled_from([b"", b"dashscope.aliyuncs.com", b"demo:80"]),
        "path": st.sampled_from([b"/", b"/v1/chat/completions?x=y", b"*"]),
        "http_version": st.sampled_from([b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0"]),
        "headers": st.lists(fields, max_size=8),
        "content": st.none() | st.binary(max_size=20),
        "trailers": st.none() | st.just(http.Headers(authorization="sk-clients-own")),
    }
)


@given(attempts, requests)
def test_applying_a_plan_twice_is_applying_it_once(attempt, request):
    once, twice = (
        tflow.tflow(req=tutils.treq(**request | {"headers": http.Headers(request["headers"])})) for _ in "12"
    )

    apply(attempt, once)
    apply(attempt, twice)
    apply(attempt, twice)

    assert once.request.get_state() == twice.request.get_state()


@given(attempts, requests)
def test_no_key_is_ever_in_the_flow(attempt, request):
    request["headers"] = http.Headers([(name, value) for name, value in request["headers"] if name in CREDENTIALS])
    flow = tflow.tflow(req=tutils.treq(**request))

    apply(attempt, flow)

    assert KEY not in repr(flow.get_state())
    assert "sk-clients-own" not in repr(flow.get_state())


@given(attempts, requests)
def test_a_body_is_always_framed_by_its_length(attempt, request):
    flow = tflow.tflow(req=tutils.treq(**request | {"headers": http.Headers(request["headers"])}))

    apply(attempt, flow)

    content = flow.request.raw_content or b""
    assert "transfer-encoding" not in flow.request.headers
    assert flow.request.headers.get_all("content-length") in ([str(len(content))], [] if not content else None)
    assert flow.request.trailers is None


def test_the_flow_becomes_the_request_of_the_attempt():
    flow = make_flow()

    apply(Attempt(TLS, "/v1/chat/completions", (("host", TLS.authority),), body=b"{}"), flow)

    assert flow.request.url == "https://dashscope.aliyuncs.com/v1/chat/completions"
    assert flow.request.headers["host"] == "dashscope.aliyuncs.com"
    assert flow.request.raw_content == b"{}"
    assert flow.request.headers["content-length"] == "2"


def test_a_body_that_was_encoded_and_chunked_is_sent_plain_and_counted():
    flow = make_flow(content_encoding="gzip", transfer_encoding="chunked")
    flow.request.headers.pop("content-length")

    apply(Attempt(TLS, "/v1/chat/completions", body=b'{"messages":[]}'), flow)

    assert "content-encoding" not in flow.request.headers
    assert "transfer-encoding" not in flow.request.headers
    assert flow.request.headers["content-length"] == "15"


def test_a_body_without_a_length_gets_one():
    flow = make_flow()
    flow.request.raw_content = b"abc"
    flow.request.headers.pop("content-length")

    apply(Attempt(TLS, "/v1/embeddings"), flow)

    assert flow.request.headers["content-length"] == "3"


def test_a_request_without_a_body_gets_no_length():
    flow = make_flow()
    flow.request.raw_content = b""
    flow.request.headers.pop("content-length")

    apply(Attempt(TLS, "/v1/models"), flow)

    assert "content-length" not in flow.request.headers


def test_an_absolute_form_request_is_sent_in_origin_form():
    flow = make_flow()
    flow.request.authority = "dashscope.aliyuncs.com"

    apply(Attempt(TLS, "/v1/models"), flow)

    assert flow.request.authority == ""


def test_an_error_is_an_answer_in_openais_shape():
    flow = make_flow()

    answer(ClientError(404, "no_rule_matched", "no rule matches", "messages"), flow)

    assert flow.response.status_code == 404
    assert flow.response.json()["error"] == {
        "message": "no rule matches",
        "type": "sidestream_error",
        "param": "messages",
        "code": "no_rule_matched",
    }
