import dataclasses

import pytest

from tests.soak.judging import Verdict
from tests.soak.recording import Acted, Done, check_reasons, check_records, check_words

COMPLETE = Done(
    1, "tag-1", "soak.test", "events=5", True, False, Verdict("complete"),
    status=200, bytes_in=10, bytes_out=20, address="127.0.0.1:5", began=10.0, ended=11.0,
)  # fmt: skip
FAILED = dataclasses.replace(COMPLETE, verdict=Verdict("error"), status=502, code="provider_failed")
UNFINISHED = dataclasses.replace(COMPLETE, verdict=Verdict("left"), leave="body end")
RECORD = {
    "request_model": "tag-1", "client": "127.0.0.1:5", "stream": True,
    "status": 200, "error": None, "bytes_in": 10, "bytes_out": 20,
}  # fmt: skip
NAMELESS = RECORD | {"request_model": None}
ATTEMPT = {"mood": "", "leaks": False}
NOTHING, ALL = Acted(fallback=False, timeouts=False), Acted(fallback=True, timeouts=True)


@pytest.mark.parametrize(
    ("call", "records"),
    [
        (COMPLETE, [RECORD]),
        (FAILED, [RECORD | {"status": 502, "error": "provider_failed"}]),
        (UNFINISHED, [NAMELESS]),
        (dataclasses.replace(UNFINISHED, leave="body reset"), []),
        (dataclasses.replace(COMPLETE, verdict=Verdict("left"), leave="sent reset"), []),
        (dataclasses.replace(COMPLETE, verdict=Verdict("left"), leave="sent reset"), [NAMELESS]),
        (dataclasses.replace(COMPLETE, verdict=Verdict("left"), leave="sent reset"), [RECORD]),
    ],
)
def test_a_record_that_tells_the_truth_is_no_offence(call, records):
    assert list(check_records([call], records)) == []


@pytest.mark.parametrize(
    ("call", "records"),
    [
        (COMPLETE, []),
        (COMPLETE, [RECORD, RECORD]),
        (COMPLETE, [RECORD, RECORD | {"request_model": "tag-2"}]),
        (COMPLETE, [RECORD, NAMELESS]),
        (COMPLETE, [RECORD | {"error": "provider_failed"}]),
        (COMPLETE, [RECORD | {"bytes_out": 19}]),
        (COMPLETE, [RECORD | {"bytes_in": 9}]),
        (COMPLETE, [RECORD | {"status": None}]),
        (COMPLETE, [RECORD | {"stream": False}]),
        (FAILED, [RECORD | {"status": 502, "error": "provider_unreachable"}]),
        (FAILED, [RECORD | {"status": 502, "error": "It broke: 3"}]),
        (dataclasses.replace(COMPLETE, verdict=Verdict("incomplete")), [RECORD]),
        (UNFINISHED, []),
        (UNFINISHED, [NAMELESS, NAMELESS]),
    ],
)
def test_a_record_that_does_not_fit_its_call_is_an_offence(call, records):
    assert len(list(check_records([call], records))) == 1


@pytest.mark.parametrize(
    ("call", "attempt", "restarts"),
    [
        (FAILED, ATTEMPT | {"mood": "status=500"}, []),
        (dataclasses.replace(FAILED, settings="events=5 cut=2"), ATTEMPT, []),
        (FAILED, ATTEMPT, [10.5]),
        (dataclasses.replace(FAILED, host="dead-first.test"), ATTEMPT, []),
        (dataclasses.replace(FAILED, verdict=Verdict("gave up"), settings="stall=1"), ATTEMPT, []),
    ],
)
def test_a_failure_with_a_reason_is_no_offence(call, attempt, restarts):
    assert list(check_reasons([call], {"tag-1": [attempt]}, NOTHING, restarts=restarts)) == []


@pytest.mark.parametrize(
    ("call", "attempts", "acted"),
    [
        (FAILED, [ATTEMPT], NOTHING),
        (FAILED, [], NOTHING),
        (dataclasses.replace(FAILED, host="dead-first.test"), [ATTEMPT], ALL),
        (dataclasses.replace(FAILED, verdict=Verdict("gave up")), [ATTEMPT], NOTHING),
        (dataclasses.replace(FAILED, verdict=Verdict("gave up"), settings="stall=1"), [ATTEMPT], ALL),
        (COMPLETE, [ATTEMPT] * 6, ALL),
        (COMPLETE, [ATTEMPT | {"leaks": True}], ALL),
    ],
)
def test_a_failure_without_a_reason_is_an_offence(call, attempts, acted):
    assert len(list(check_reasons([call], {"tag-1": attempts}, acted))) == 1


def test_a_provider_without_a_route_has_no_timeouts_to_keep():
    stalled = dataclasses.replace(FAILED, host="alpha.test", verdict=Verdict("gave up"), settings="stall=1")

    assert list(check_reasons([stalled], {"tag-1": [ATTEMPT]}, ALL)) == []


def test_a_record_of_a_failure_of_the_product_is_an_offence():
    assert len(list(check_words([RECORD, NAMELESS | {"error": "internal_error"}]))) == 1


def test_a_proxy_that_has_no_cpu_may_be_late():
    late = dataclasses.replace(FAILED, verdict=Verdict("gave up"))

    assert list(check_reasons([late], {"tag-1": [ATTEMPT]}, ALL, starved=[(10.5, 12.5)])) == []
