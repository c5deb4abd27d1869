import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.budget import MOST, RATIO, RESERVE_PER_SECOND, RetryBudget


def withdrawn(budget, now):
    """Return how many retries there are at `now`."""
    return next(count for count in range(1000) if not budget.withdraw(now))


def emptied(now=0.0):
    budget = RetryBudget()
    withdrawn(budget, now)
    return budget


def test_a_quiet_proxy_may_retry_at_once():
    assert withdrawn(RetryBudget(), 1_000_000.0) == RESERVE_PER_SECOND


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 0), (0.1, 1), (0.5, 5), (1.0, 10), (10.0, 100), (3600.0, MOST)])
def test_time_fills_it_up_to_a_bound(seconds, count):
    # A power of two, to which tenths are added without an error that matters.
    assert withdrawn(emptied(64.0), 64.0 + seconds + 1e-9) == count


@pytest.mark.parametrize(("exchanges", "count"), [(0, 0), (4, 0), (6, 1), (51, 10), (10_000, MOST)])
def test_exchanges_fill_it_by_their_share_up_to_a_bound(exchanges, count):
    budget = emptied()

    for _ in range(exchanges):
        budget.deposit()

    assert withdrawn(budget, 0.0) == count


def test_what_it_refuses_is_counted():
    budget = emptied()

    assert [budget.withdraw(0.0) for _ in range(3)] == [False] * 3
    assert budget.refused == 4


def test_a_clock_that_goes_back_takes_nothing():
    budget = RetryBudget()
    budget.withdraw(100.0)

    assert withdrawn(budget, 0.0) == RESERVE_PER_SECOND - 1


@given(st.lists(st.none() | st.floats(0, 5), max_size=200))
def test_there_are_never_more_retries_than_exchanges_and_time_allow(happened):
    budget, now, exchanges, retries = RetryBudget(), 0.0, 0, 0

    for later in happened:
        if later is None:
            budget.deposit()
            exchanges += 1
        else:
            now += later
            retries += budget.withdraw(now)

    assert retries <= RESERVE_PER_SECOND * (1 + now) + RATIO * exchanges + 1e-6
