import pytest

from sidestream.policy.places import Source, Spot, Text, dotted
from sidestream.policy.problems import Problem, Severity
from tests.policy.written import NOWHERE

PART = """\
a: 1
b:
  c:
  - d: 1
    e: 2
  -
    d: 3
  'f g': 4
7: seven
h: {i: 1,
    j: 2}
"""
TEXT = Text("a.yaml", NOWHERE, b"")
SOURCE = Source(TEXT, 0, "LLMRoute default/chat", PART, first_line=10)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 11),
        (("a",), 11),
        (("b",), 12),
        (("b", "c"), 13),
        (("b", "c", 0), 14),
        (("b", "c", 0, "e"), 15),
        (("b", "c", 1), 17),
        (("b", "c", 1, "d"), 17),
        (("b", "f g"), 18),
        ((7,), 19),
        (("h", "j"), 21),
        # What is not there is where it would stand.
        (("z",), 11),
        (("b", "z"), 12),
        (("b", "c", 9, "e"), 13),
        (("b", "c", "e"), 13),
        (("a", "z"), 11),
    ],
)
def test_a_line_is_that_of_the_deepest_part_that_is_there(path, line):
    assert SOURCE.line_of(path) == line


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ((), ""),
        (("spec",), "spec"),
        (("spec", "rules", 0, "matches", 1, "headers", "x-y"), "spec.rules[0].matches[1].headers.x-y"),
    ],
)
def test_a_path_is_written_as_in_messages(path, written):
    assert dotted(path) == written


def test_a_spot_reports_at_its_place():
    problems = []
    spot = Spot(SOURCE, ("b",), problems).at("c", 0)

    spot.error("is wrong")
    spot.warn("is odd")

    assert problems == [
        Problem("a.yaml", 14, "LLMRoute default/chat", "b.c[0]", "is wrong"),
        Problem("a.yaml", 14, "LLMRoute default/chat", "b.c[0]", "is odd", Severity.WARNING),
    ]


def test_what_a_file_says_is_not_in_its_representation():
    text = Text("a.yaml", NOWHERE, b"apiKey: sk-marker")

    assert "sk-marker" not in repr(text)
    assert "sk-marker" not in repr(Source(text, 0, "", "apiKey: sk-marker"))
