import pytest

from sidestream.policy.problems import PolicyError, Problem, Severity, errors_in

ERROR = Problem("a.yaml", 3, "LLMRoute default/chat", "spec.host", "is required")
WARNING = Problem("a.yaml", 1, "LLMRoute default/chat", "spec.host", "is odd", Severity.WARNING)


@pytest.mark.parametrize(
    ("problem", "written"),
    [
        (ERROR, "a.yaml:3: error: LLMRoute default/chat spec.host: is required"),
        (WARNING, "a.yaml:1: warning: LLMRoute default/chat spec.host: is odd"),
        (Problem("a.yaml", 0, "", "", "not UTF-8"), "a.yaml: error: not UTF-8"),
        (Problem("a.yaml", 2, "", "", "not YAML"), "a.yaml:2: error: not YAML"),
        (Problem("a.yaml", 2, "LLMRoute default/chat", "", "no"), "a.yaml:2: error: LLMRoute default/chat: no"),
    ],
)
def test_a_problem_reads_file_line_severity_document_field_message(problem, written):
    assert str(problem) == written


@pytest.mark.parametrize("odd", ["\n", "\r", "\x1b[2J", "\u2028", "\x85", "\udcff", "\u202e", "\x00"])
def test_a_problem_is_one_printable_line_whatever_names_hold(odd):
    written = str(Problem(f"a{odd}.yaml", 3, f"LLMRoute {odd}", f"spec.{odd}", f"no {odd}"))

    assert written.isprintable()
    assert written.splitlines() == [written]


def test_an_error_of_a_policy_holds_all_problems():
    error = PolicyError([WARNING, ERROR])

    assert error.problems == (WARNING, ERROR)
    assert str(error) == f"{WARNING}\n{ERROR}"
    assert isinstance(error, ValueError)


def test_only_errors_are_errors():
    assert errors_in([WARNING, ERROR]) == [ERROR]


def test_a_problem_as_plain_values_has_all_its_parts():
    assert ERROR.as_dict() == {
        "severity": "error",
        "file": "a.yaml",
        "line": 3,
        "document": "LLMRoute default/chat",
        "field": "spec.host",
        "message": "is required",
    }
