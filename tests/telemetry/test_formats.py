"""How records are written as lines."""

import json
from dataclasses import replace

import pytest

from sidestream.core.exchange import AttemptRecord, Content, Exchange
from sidestream.telemetry.formats import JsonLine, text_line
from sidestream.telemetry.redacting import Redactor
from tests import fields
from tests.fields import with_table

PLAIN = replace(
    Exchange("1", "127.0.0.1:5", "a.example", wall_time=1_700_000_000.25, now=0.0).finish(now=0.42),
    route="default/a-route",
    rule="vip-route",
    provider="default/a",
    sent_model="m-1",
    status=200,
    operation="chat",
    prompt_tokens=12,
    completion_tokens=130,
    usage_partial=False,
)
KEYS = {
    "a key of OpenAI's shape": "sk-proj-abcdefgh12345678",
    "a bearer token": "Bearer abcdef.12345678",
    "an e-mail address": "jane.doe@mail.example.com",
    "a token of GitHub": "ghp_" + "a1" * 18,
    "a key of AWS": "AKIA" + "ABCD" * 4,
    "a JSON web token": "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
}
FAILED = AttemptRecord("default/b", "m-2", 429, "rate-limited", 0.1)
LAST = AttemptRecord("default/a", "m-1", 200, None, 0.3)
START = "22:13:20.250 200 0.42s a.example"


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({}, f"{START} vip-route → default/a m-1 12→130 tok"),
        ({"rule": None}, f"{START} a-route → default/a m-1 12→130 tok"),
        ({"stream": True}, f"{START} vip-route → default/a m-1 stream 12→130 tok"),
        ({"cost_usd": 0.0125}, f"{START} vip-route → default/a m-1 12→130 tok $0.012500"),
        (
            {"prompt_tokens": None, "usage_partial": True, "error": "provider_failed"},
            f"{START} vip-route → default/a m-1 ?→130 tok so far ! provider_failed",
        ),
        ({"operation": "embeddings", "usage_partial": None}, f"{START} vip-route → default/a m-1 embeddings"),
        (
            {"attempts": (FAILED, LAST)},
            f"{START} vip-route → default/a m-1 12→130 tok (2 attempts; default/b: rate-limited)",
        ),
        (
            {"provider": None, "usage_partial": None, "status": None, "error": "client_disconnected"},
            "22:13:20.250 --- 0.42s a.example ! client_disconnected",
        ),
    ],
)
def test_a_line_for_people(how, line):
    assert text_line(replace(PLAIN, **how)) == line


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "\ud800", "\u2028"])
def test_no_name_breaks_out_of_its_line(name):
    line = text_line(replace(PLAIN, sent_model=name, host=name))

    assert len(line.splitlines()) == 1
    assert line.isprintable()


def test_asms_fields_stand_beside_ours():
    written = json.loads(JsonLine(asm_names=True)(PLAIN))

    assert (written["request_prompt_tokens"], written["request_completion_tokens"]) == (12, 130)
    assert {name: written[name] for name in json.loads(JsonLine()(PLAIN))} == json.loads(JsonLine()(PLAIN))


def test_bodies_are_there_only_where_they_were_kept():
    assert "request_body" not in json.loads(JsonLine()(PLAIN))

    written = json.loads(JsonLine()(replace(PLAIN, content=Content(b'{"messages": []}', b"\xff"))))

    assert (written["request_body"], written["response_body"]) == ('{"messages": []}', "\ufffd")


@pytest.mark.parametrize("secret", KEYS.values(), ids=KEYS.keys())
def test_what_looks_like_a_secret_is_taken_out_of_bodies(secret):
    said = json.dumps({"messages": [{"content": f"use {secret}, please"}]})

    written = json.loads(JsonLine()(replace(PLAIN, content=Content(said.encode(), said.encode()))))

    assert written["request_body"] == said.replace(secret, "[redacted]") == written["response_body"]


def test_an_operator_can_have_more_taken_out():
    assert Redactor([r"\b\d{16}\b"])("card 4111111111111111.") == "card [redacted]."


def test_what_is_no_pattern_is_refused():
    with pytest.raises(ValueError, match=r"'\(' is no pattern that RE2 takes"):
        Redactor(["("])


def test_the_readme_lists_the_fields_as_they_are():
    text = fields.README.read_text()

    assert with_table(text) == text
    assert all(f"| `{name}` | " in text for name in PLAIN.as_dict())
