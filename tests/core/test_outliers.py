import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.outliers import Ejections, Outliers
from sidestream.core.snapshot import OutlierDetection
from tests.core.builders import make_provider

ERRORS = ("connect-failure", "reset", "timeout", "server-error", "stream-error")
DETECTION = OutlierDetection(
    consecutive_errors=3,
    consecutive_rate_limits=2,
    interval_seconds=10.0,
    base_ejection_seconds=30.0,
    max_ejection_seconds=100.0,
)


def make(**fields):
    """Return outliers that know nobody, and a provider that is ejected by what `fields` change of `DETECTION`."""
    written = {name: getattr(DETECTION, name) for name in OutlierDetection.__slots__} | fields
    return Outliers(), make_provider(outlier_detection=OutlierDetection(**written))


def fail(outliers, provider, *kinds, now=0.0, retry_after=None):
    for kind in kinds:
        outliers.failed(provider, kind, now, retry_after_seconds=retry_after)


def eject(outliers, provider, now, retry_after=None):
    fail(outliers, provider, *["reset"] * 3, now=now, retry_after=retry_after)


def lasts(outliers, provider, now):
    """Return how long the ejection that began at `now` lasts, in whole seconds."""
    return next(seconds for seconds in range(1000) if not outliers.is_ejected(provider, now + seconds))


@pytest.mark.parametrize("kind", ERRORS)
def test_as_many_errors_in_a_row_as_it_says_eject(kind):
    outliers, provider = make()

    before = [(fail(outliers, provider, kind), outliers.is_ejected(provider, 0.0))[1] for _ in range(3)]

    assert before == [False, False, True]
    assert outliers.ejections == 1


def test_errors_of_any_kinds_count_together():
    outliers, provider = make()

    fail(outliers, provider, "reset", "timeout", "server-error")

    assert outliers.is_ejected(provider, 0.0)


def test_rate_limits_are_counted_for_themselves():
    outliers, provider = make()

    fail(outliers, provider, "reset", "reset", "rate-limited")
    assert not outliers.is_ejected(provider, 0.0)

    fail(outliers, provider, "rate-limited")
    assert outliers.is_ejected(provider, 0.0)


def test_rate_limits_eject_only_where_that_is_written():
    outliers, provider = make(consecutive_rate_limits=None)

    fail(outliers, provider, *["rate-limited"] * 100)

    assert not outliers.is_ejected(provider, 0.0)


def test_a_provider_without_outlier_detection_is_never_ejected():
    outliers, provider = Outliers(), make_provider()

    fail(outliers, provider, *["reset"] * 1000)

    assert not outliers.is_ejected(provider, 0.0)
    assert outliers.ejections == 0


def test_nobody_else_is_ejected():
    outliers, provider = make()

    eject(outliers, provider, 0.0)

    assert not outliers.is_ejected(make_provider("b.example", outlier_detection=DETECTION), 0.0)


@pytest.mark.parametrize("kind", ["reset", "rate-limited"])
def test_a_success_between_starts_the_count_anew(kind):
    outliers, provider = make(consecutive_errors=2)

    for _ in range(5):
        fail(outliers, provider, kind)
        outliers.succeeded(provider, 0.0)

    assert not outliers.is_ejected(provider, 0.0)


def test_an_ejection_lasts_its_time_and_not_longer():
    outliers, provider = make()

    eject(outliers, provider, 1000.0)

    assert outliers.is_ejected(provider, 1029.9)
    assert not outliers.is_ejected(provider, 1030.0)


def test_each_ejection_is_longer_than_the_one_before_up_to_a_bound():
    outliers, provider = make()
    now, lasted = 0.0, []

    for _ in range(5):
        eject(outliers, provider, now)
        lasted.append(lasts(outliers, provider, now))
        now += lasted[-1]

    assert lasted == [30, 60, 90, 100, 100]


@pytest.mark.parametrize(("quiet", "lasting"), [(0, 90), (9, 90), (10, 60), (19, 60), (20, 30), (1000, 30)])
def test_intervals_without_an_ejection_are_forgiven(quiet, lasting):
    outliers, provider = make()
    eject(outliers, provider, 0.0)
    eject(outliers, provider, 30.0)

    eject(outliers, provider, 90.0 + quiet)

    assert lasts(outliers, provider, 90.0 + quiet) == lasting


@pytest.mark.parametrize(("retry_after", "lasting"), [(None, 30), (0.0, 30), (5.0, 5), (60.0, 60), (86_400.0, 100)])
def test_it_lasts_as_long_as_the_provider_asks_within_the_bound(retry_after, lasting):
    outliers, provider = make()

    eject(outliers, provider, 0.0, retry_after)

    assert lasts(outliers, provider, 0.0) == lasting


def test_failures_of_calls_that_began_before_do_not_make_it_longer():
    outliers, provider = make()
    eject(outliers, provider, 0.0)

    for now in range(30):
        eject(outliers, provider, float(now), retry_after=90.0)

    assert lasts(outliers, provider, 0.0) == 30
    assert outliers.ejections == 1


def test_a_success_of_a_call_that_began_before_does_not_end_it():
    outliers, provider = make()
    eject(outliers, provider, 0.0)

    outliers.succeeded(provider, 1.0)

    assert lasts(outliers, provider, 0.0) == 30


def test_after_an_ejection_the_count_starts_anew():
    outliers, provider = make()
    eject(outliers, provider, 0.0)

    fail(outliers, provider, "reset", "reset", now=30.0)

    assert not outliers.is_ejected(provider, 30.0)


def test_a_policy_that_no_longer_wants_it_ends_it():
    outliers, provider = make()
    eject(outliers, provider, 0.0)

    assert not outliers.is_ejected(make_provider(), 1.0)


def test_nothing_is_kept_of_a_provider_that_is_well():
    outliers, provider = make()
    eject(outliers, provider, 0.0)

    outliers.succeeded(provider, 1000.0)

    assert outliers._standings == {}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*ERRORS, "rate-limited", "succeeded"]),
            st.floats(0, 50),
            st.none() | st.floats(0, 1e6),
        ),
        max_size=40,
    )
)
def test_whatever_happens_no_ejection_outlasts_its_bound(happened):
    outliers, provider = make()
    now = 0.0

    for kind, later, retry_after in happened:
        now += later
        if kind == "succeeded":
            outliers.succeeded(provider, now)
        else:
            fail(outliers, provider, kind, now=now, retry_after=retry_after)

    assert not outliers.is_ejected(provider, now + DETECTION.max_ejection_seconds)
    assert outliers.ejections <= len(happened) // 2


def test_what_was_ejected_is_known_by_provider():
    outliers, provider = make()
    eject(outliers, provider, 0.0)
    eject(outliers, provider, 35.0)
    fail(outliers, make_provider("never.example", outlier_detection=DETECTION), "reset")

    assert outliers.by_provider() == {provider.name: Ejections(2, 95.0)}
    assert outliers.ejections == 2
