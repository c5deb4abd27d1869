"""A plan, applied to a flow."""

from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.test import tflow

from sidestream.core.errors import ClientError
from sidestream.core.planning import Attempt
from sidestream.core.secret import CREDENTIAL_HEADERS, Secret
from sidestream.core.snapshot import Endpoint
from sidestream.mitm.apply import answer, apply

KEY = "sk-marker-apply"
TLS = Endpoint("dashscope.aliyuncs.com", 443, "dashscope.aliyuncs.com", server_name="dashscope.aliyuncs.com")
PLAIN = Endpoint("127.0.0.1", 11434, "ollama.local", tls=False)

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


@given(attempts)
def test_applying_a_plan_twice_is_applying_it_once(attempt):
    once, twice = make_flow(), make_flow()

    apply(attempt, once)
    apply(attempt, twice)
    apply(attempt, twice)

    assert once.request.get_state() == {**twice.request.get_state(), **_times(once)}


def _times(flow):
    return {"timestamp_start": flow.request.timestamp_start, "timestamp_end": flow.request.timestamp_end}


@given(attempts)
def test_the_key_is_never_in_the_flow(attempt):
    flow = make_flow(authorization="Bearer sk-clients-own")

    apply(attempt, flow)

    assert KEY not in repr(flow.get_state())
    assert "sk-clients-own" not in repr(flow.get_state())


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
