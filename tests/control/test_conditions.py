import pytest

from sidestream.control.bundling import InForce, Verdict
from sidestream.control.conditions import MAX_MESSAGE, says_the_same, status_for
from sidestream.policy.problems import Problem, Severity
from tests.policy.definitions import faults, schema_of

NOW = "2026-11-25T12:00:00Z"
LATER = "2026-11-25T13:00:00Z"
TITLE = "LLMProvider default/alpha"

ERROR = Problem(TITLE, 1, TITLE, "spec.host", "is no host")
WARNING = Problem(TITLE, 1, TITLE, "spec.configs", "is a literal", Severity.WARNING)
MISSING = Problem(TITLE, 1, TITLE, "spec.configs.apiKeyFrom", "there is no Secret 'keys'")
LONG = Problem(TITLE, 1, TITLE, "spec", "x" * 100_000)

GOOD = Verdict(InForce.CURRENT, bundle="sidestream-policy")
VERDICTS = {
    "good": (GOOD, "", {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs", "Programmed": "Programmed"}),
    "warned of": (
        Verdict(InForce.CURRENT, (WARNING,), bundle="sidestream-policy"),
        "",
        {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs", "Programmed": "Programmed"},
    ),
    "invalid": (
        Verdict(InForce.NONE, (WARNING, ERROR)),
        "",
        {"Accepted": "Invalid", "ResolvedRefs": "ResolvedRefs", "Programmed": "NotInForce"},
    ),
    "invalid now": (
        Verdict(InForce.LAST_GOOD, (ERROR, LONG), bundle="sidestream-policy"),
        "",
        {"Accepted": "Invalid", "ResolvedRefs": "ResolvedRefs", "Programmed": "LastGood"},
    ),
    "without its key": (
        Verdict(InForce.NONE, (), (MISSING,)),
        "",
        {"Accepted": "Accepted", "ResolvedRefs": "RefNotFound", "Programmed": "NotInForce"},
    ),
    "with the last good key": (
        Verdict(InForce.CURRENT, (), (), ("the last good key stays in force",), "sidestream-policy"),
        "",
        {"Accepted": "Accepted", "ResolvedRefs": "LastGoodKey", "Programmed": "Programmed"},
    ),
    "not written": (
        GOOD,
        "403 Forbidden",
        {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs", "Programmed": "NotWritten"},
    ),
}


@pytest.mark.parametrize(("verdict", "unwritten", "reasons"), VERDICTS.values(), ids=VERDICTS)
@pytest.mark.parametrize("kind", ["LLMProvider", "LLMRoute"])
def test_a_status_is_what_the_definitions_say(kind, verdict, unwritten, reasons):
    status = status_for(verdict, generation=3, before=None, now=NOW, unwritten=unwritten)

    good = {"Accepted", "ResolvedRefs", "Programmed"}
    assert faults(schema_of(kind)["properties"]["status"], status) == []
    assert {one["type"]: one["reason"] for one in status["conditions"]} == reasons
    assert [(one["status"] == "True") == (one["reason"] in good) for one in status["conditions"]] == [True] * 3
    assert max(len(one["message"]) for one in status["conditions"]) <= MAX_MESSAGE


def test_only_what_became_another_gets_another_time():
    before = status_for(GOOD, generation=1, before=None, now=NOW)

    after = status_for(Verdict(InForce.NONE, (ERROR,)), generation=2, before=before, now=LATER)

    times = {one["type"]: one["lastTransitionTime"] for one in after["conditions"]}
    assert times == {"Accepted": LATER, "ResolvedRefs": NOW, "Programmed": LATER}


def test_times_alone_are_no_difference():
    one, other = (status_for(GOOD, generation=1, before=None, now=now) for now in (NOW, LATER))

    assert says_the_same(one, other)
    assert not says_the_same(one, status_for(GOOD, generation=2, before=one, now=LATER))
    assert not says_the_same(None, one)
