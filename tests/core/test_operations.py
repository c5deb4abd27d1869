from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidestream.core.operations import CHAT, OTHER, Operation, base_of, operation_of

BASE = "/compatible-mode/v1"
OWN = ("embeddings", "completions", "models", "responses", "images", "audio")
SEGMENTS = (
    *OWN,
    "v1",
    "compatible-mode",
    "chat",
    "..",
    ".",
    "%2e%2E",
    "%2f",
    "..;",
    "\\",
    "",
    "x",
    "%",
    "?",
    "a=1",
    "é",
)
targets = st.lists(st.sampled_from(SEGMENTS), max_size=6).map(lambda parts: "/" + "/".join(parts)) | st.text()


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "",
        "/?a=1",
        "/chat/completions",
        "/v1/chat/completions",
        "/v1/chat/completions?api-version=1",
        "/compatible-mode/v1/chat/completions",
        "/openai/deployments/gpt-4o/chat/completions",
        "/any/where/chat/completions",
        "/models/../chat/completions",
    ],
)
def test_a_post_to_a_chat_path_is_chat(target):
    assert operation_of("POST", target, BASE) == CHAT


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "post", ""])
@pytest.mark.parametrize("target", ["/", "/v1/chat/completions", "/chat/completions"])
def test_only_a_post_is_chat(method, target):
    assert operation_of(method, target, BASE) == OTHER


@pytest.mark.parametrize("prefix", ["", "/v1", BASE])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/embeddings", "embeddings"),
        ("/completions", "text_completion"),
        ("/models", "models"),
        ("/models/", "models"),
        ("/models/qwen-max", "models"),
        ("/models/ft:gpt-4o:org::id", "models"),
        ("/models/meta-llama%2FLlama-3.1", "models"),
        ("/models/v1..2", "models"),
        ("/models?limit=1", "models"),
        ("/models/x?after=../..", "models"),
        ("/responses", "responses"),
        ("/responses/resp_1/input_items?limit=2", "responses"),
        ("/images/generations", "images"),
        ("/audio/speech", "audio"),
        ("/audio/transcriptions", "audio"),
    ],
)
def test_another_operation_is_known_below_any_base(prefix, method, path, name):
    assert operation_of(method, prefix + path, BASE) == Operation(name, path)


@pytest.mark.parametrize(
    "target",
    [
        "/v1",
        "/v1/",
        BASE,
        "/health",
        "/files",
        "/v1/files",
        "/v1/realtime",
        "/v1/organization/admin_api_keys",
        "/v2/embeddings",
        "/v1/v1/embeddings",
        "/api/v1/embeddings",
        "/v1beta/models",
        "/embeddingsx",
        "/Embeddings",
        "/v1//embeddings",
        "//embeddings",
        "embeddings",
        "*",
        "/v1/chat/completions/",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completions%3F",
        "/v1/chat/completions/chatcmpl-1/messages",
        "/?/embeddings",
        "?/embeddings",
    ],
)
def test_anything_else_is_other(target):
    assert operation_of("GET", target, BASE) == OTHER


@pytest.mark.parametrize("target", ["/v1/chat/completions/", "/v1/chat%2Fcompletions", "/x?/chat/completions"])
def test_a_path_that_only_resembles_chat_is_other(target):
    assert operation_of("POST", target, BASE) == OTHER


@pytest.mark.parametrize(
    "target",
    [
        "/models/../admin",
        "/v1/models/../../admin",
        "/v1/../admin",
        "/v1/models/..",
        "/models/.",
        "/models/./x",
        "/models/%2e%2e/admin",
        "/models/.%2E/admin",
        "/models/%2E./admin",
        "/models%2f..%2fadmin",
        "/models%2F%2e%2e%2Fadmin",
        "/compatible-mode/v1/models/%2e%2e/admin",
        "/models/..?x=1",
        "/models/..\\admin",
        "/models\\..\\admin",
        "/models%5c..%5cadmin",
        "/models/..%5Cadmin",
        "/models/..;/admin",
        "/models/..;x=1/admin",
        "/models/%2e%2e%3b/admin",
        "/models/.;/x",
    ],
)
def test_a_dot_segment_takes_the_key_nowhere(target):
    assert operation_of("GET", target, BASE) == OTHER


@given(targets, st.sampled_from(["GET", "POST", "\ud800"]), st.sampled_from(["", "/v1", BASE, "/a%", "é"]))
@example("/%ff/\udc80", "GET", "/v1")
def test_any_target_is_an_operation(target, method, base):
    operation = operation_of(method, target, base)

    assert operation in (CHAT, OTHER) or operation.path.startswith("/")


@given(targets)
def test_an_operation_has_no_dot_segments_and_the_end_of_the_target(target):
    operation = operation_of("GET", target, BASE)

    segments = unquote(operation.path.partition("?")[0]).replace("\\", "/").split("/")
    assert not {".", ".."} & {segment.partition(";")[0] for segment in segments}
    assert target.endswith(operation.path)


@given(st.sampled_from(OWN), st.text(min_size=1).filter(lambda text: set(text) != {"."}))
def test_any_quoted_name_below_an_operation_is_kept(own, name):
    path = f"/{own}/x{quote(name, safe='')}".replace("%2F", "x").replace("%5C", "x").replace("%3B", "x")

    assert operation_of("GET", "/v1" + path, BASE).path == path


@given(targets)
def test_the_base_of_a_client_makes_no_difference(target):
    path = "/models" + target

    assert operation_of("GET", path, BASE) == operation_of("GET", "/v1" + path, BASE)
    assert operation_of("GET", path, BASE) == operation_of("GET", BASE + path, BASE)


def test_a_base_that_begins_like_another_segment_is_none():
    assert operation_of("GET", "/v1beta/models", "/v1beta/openai") == OTHER
    assert operation_of("GET", "/v1beta/openai/models", "/v1beta/openai") == Operation("models", "/models")


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("/v1/chat/completions", "/v1"),
        ("/compatible-mode/v1/chat/completions", "/compatible-mode/v1"),
        ("/chat/completions", ""),
        ("/openai/deployments/x/chat/completions?api-version=2024-10-21", "/openai/deployments/x"),
        ("/v1beta/openai/chat/completions", "/v1beta/openai"),
        ("/api/chat", "/api"),
        ("/chat", ""),
        ("/", ""),
    ],
)
def test_the_base_is_what_a_chat_path_stands_under(path, base):
    assert base_of(path) == base
