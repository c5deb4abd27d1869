import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.attempts import Failure
from sidestream.core.deadlines import Deadlines
from sidestream.core.snapshot import Timeouts

TIMEOUTS = Timeouts(connect_seconds=1.0, first_byte_seconds=10.0, stream_idle_seconds=3.0, request_seconds=60.0)
LAST = 160.0


def make(*, last=LAST):
    """Return the deadlines of an attempt that begins at 100."""
    return Deadlines(TIMEOUTS, now=100.0, last=last)


def connected():
    deadlines = make()
    deadlines.connected(100.5)
    return deadlines


def streaming():
    deadlines = connected()
    deadlines.heard(105.0)
    return deadlines


@pytest.mark.parametrize(
    ("phase", "deadline", "failure"),
    [
        (make, 101.0, Failure("connect-failure", "no connection within 1 s")),
        (connected, 110.5, Failure("timeout", "no answer within 10 s")),
        (streaming, 108.0, Failure("timeout", "the answer stalled for 3 s")),
    ],
)
def test_each_phase_has_its_deadline(phase, deadline, failure):
    deadlines = phase()

    assert deadlines.next == deadline
    assert deadlines.missed(deadline - 0.01) is None
    assert deadlines.missed(deadline) == failure


def test_each_sign_of_life_moves_the_deadline():
    deadlines = streaming()

    deadlines.heard(107.9)

    assert deadlines.missed(108.0) is None
    assert deadlines.next == pytest.approx(110.9)


@pytest.mark.parametrize("phase", [make, connected, streaming])
def test_the_exchange_ends_when_it_must(phase):
    assert phase().missed(LAST) == Failure("timeout", "the exchange took longer than 60 s")


@pytest.mark.parametrize("last", [100.0, 100.3])
def test_the_deadline_of_the_exchange_comes_first_if_it_is_earlier(last):
    deadlines = make(last=last)

    assert deadlines.next == last
    assert deadlines.missed(last) == Failure("timeout", "the exchange took longer than 60 s")


@pytest.mark.parametrize("phase", [make, connected, streaming])
def test_while_the_client_does_not_read_only_the_exchange_has_a_deadline(phase):
    deadlines = phase()

    deadlines.pause()

    assert deadlines.is_paused
    assert deadlines.next == LAST
    assert deadlines.missed(LAST - 0.01) is None
    assert deadlines.missed(LAST) is not None


def test_after_a_pause_the_provider_has_all_its_time():
    deadlines = streaming()
    deadlines.pause()

    deadlines.resume(150.0)

    assert not deadlines.is_paused
    assert deadlines.next == 153.0
    assert deadlines.missed(152.9) is None
    assert deadlines.missed(153.0) == Failure("timeout", "the answer stalled for 3 s")


EVENTS = {
    "connected": Deadlines.connected,
    "heard": Deadlines.heard,
    "paused": lambda deadlines, _: deadlines.pause(),
    "resumed": Deadlines.resume,
}


@given(st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.floats(0, 5)), max_size=20))
def test_nothing_is_missed_before_it_is_time_to_look_again_and_something_then(happened):
    deadlines, now = make(), 100.0

    for name, later in happened:
        now += later
        EVENTS[name](deadlines, now)

    assert deadlines.next <= LAST
    assert deadlines.missed(deadlines.next) is not None
    assert deadlines.missed(deadlines.next - 0.001) is None
