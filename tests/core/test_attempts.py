"""Attempts: what comes next in each case that has a name, and what holds in any order of events."""

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidestream.core.attempts import Attempts, Failure, Health
from sidestream.core.exchange import Exchange
from sidestream.core.planning import plan
from sidestream.core.routing import Forward, pick
from sidestream.core.snapshot import OutlierDetection, Retry, Timeouts
from tests.core.builders import make_backend, make_provider, make_request, make_route, make_rule

KINDS = ("connect-failure", "reset", "timeout", "rate-limited", "server-error", "stream-error")
EASILY = OutlierDetection(consecutive_errors=1, consecutive_rate_limits=1, base_ejection_seconds=30.0)
ONE_MORE, FIVE_MORE = Retry(attempts=1), Retry(attempts=5)


def make_backends(*hosts, detection=None, **fields):
    return tuple(
        make_backend(make_provider(f"{host}.example", outlier_detection=detection), **fields) for host in hosts
    )


def begin(backends, *, health=None, first=0, hashed=None, only_unsent=False, draw=0.0, **fields):
    """Return attempts whose first, of `backends[first]`, was made at 0, and that."""
    rule = make_rule(*backends, **fields)
    forward = Forward(backends[first], make_route(rule), rule)
    attempts = Attempts(forward, health or Health(), now=0.0, hashed=hashed, only_unsent=only_unsent)
    return attempts, attempts.first(now=0.0, draw=draw)


def fail(attempts, kind="reset", *, now=0.0, draw=0.0, retry_after=None):
    return attempts.failed(Failure(kind, "a test", retry_after_seconds=retry_after), now=now, draw=draw)


def played(attempts, first, *, times=10, **failure):
    """Return the hosts that are asked if every attempt fails."""
    hosts, step = [], first
    while step is not None and len(hosts) < times:
        hosts.append(step.backend.provider.host.removesuffix(".example"))
        step = fail(attempts, **failure)
    return hosts


A, B, C = make_backends("a", "b", "c")
A_FIRST = (A, *make_backends("b", priority=1), *make_backends("c", priority=2))


# --- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backends", "fields", "hosts"),
    [
        ((A,), {}, ["a"]),
        ((A, B), {}, ["a"]),
        ((A,), {"retry": Retry(attempts=0)}, ["a"]),
        ((A,), {"retry": ONE_MORE}, ["a", "a"]),
        ((A, B, C), {"retry": ONE_MORE}, ["a", "b"]),
        ((A, B), {"retry": Retry(attempts=3)}, ["a", "b", "a", "a"]),
        (A_FIRST, {}, ["a", "b", "c"]),
        (A_FIRST, {"retry": Retry(attempts=0)}, ["a"]),
        (A_FIRST, {"retry": ONE_MORE}, ["a", "b"]),
    ],
    ids=lambda value: None if isinstance(value, tuple) else str(value),
)
def test_as_many_attempts_are_made_as_the_rule_says_or_one_for_each_tier(backends, fields, hosts):
    assert played(*begin(backends, **fields)) == hosts


def test_a_provider_without_a_rule_is_asked_once():
    attempts = Attempts(Forward(A), Health(), now=0.0)

    assert played(attempts, attempts.first(now=0.0, draw=0.0)) == ["a"]
    assert attempts.deadline == Timeouts().request_seconds


def test_tiers_of_one_provider_are_one_provider():
    twice = (A, make_backend(A.provider, priority=1))

    assert played(*begin(twice)) == ["a"]


def test_what_went_out_is_not_asked_for_again():
    attempts, _ = begin((A, B), retry=FIVE_MORE)

    attempts.committed()

    assert not attempts.may_go_on
    assert fail(attempts) is None


@pytest.mark.parametrize("end", [Attempts.abandoned, lambda attempts: attempts.succeeded(now=0.0)])
def test_nothing_comes_after_the_end(end):
    attempts, _ = begin((A, B), retry=FIVE_MORE)

    end(attempts)

    assert not attempts.may_go_on
    assert fail(attempts) is None
    assert attempts.succeeded(now=1.0) is False


def test_nothing_comes_before_the_first():
    attempts = Attempts(Forward(A), Health(), now=0.0)

    assert fail(attempts) is None
    assert attempts.succeeded(now=0.0) is False


def test_retries_are_counted_and_first_attempts_are_not():
    health = Health()

    played(*begin((A, B), health=health, retry=FIVE_MORE))

    assert health.retries == 5


# --- after what -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on", [(), ("timeout", "rate-limited"), KINDS])
def test_a_failure_is_followed_where_the_rule_lists_it(kind, on):
    attempts, _ = begin((A, B), retry=Retry(1, on))

    assert (fail(attempts, kind) is not None) is (not on or kind in on)


def test_each_failure_is_judged_by_the_rule():
    attempts, _ = begin((A, B, C), retry=Retry(5, ("timeout",)))

    assert fail(attempts, "timeout") is not None
    assert fail(attempts, "reset") is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_may_have_an_effect_goes_out_again_only_if_it_never_arrived(kind):
    attempts, _ = begin((A, B), retry=FIVE_MORE, only_unsent=True)

    assert (fail(attempts, kind) is not None) is (kind == "connect-failure")


# --- where ----------------------------------------------------------------------------------------


def test_others_of_the_tier_come_before_the_next_tier_and_before_asking_again():
    backends = (*make_backends("a", "b"), *make_backends("c", priority=1))

    assert played(*begin(backends, retry=FIVE_MORE)) == ["a", "b", "c", "a", "a", "a"]


def test_a_backend_of_weight_0_is_never_asked():
    backends = (A, *make_backends("b", weight=0), *make_backends("c", priority=1))

    assert "b" not in played(*begin(backends, retry=FIVE_MORE))


def test_an_ejected_provider_is_left_out_from_the_first_on():
    health = Health()
    backends = make_backends("a", "b", detection=EASILY)
    health.outliers.failed(backends[0].provider, "reset", 0.0)

    _, first = begin(backends, health=health)

    assert first.backend is backends[1]


def test_when_all_are_ejected_the_first_choice_is_asked_all_the_same():
    health = Health()
    backends = make_backends("a", "b", detection=EASILY)
    for backend in backends:
        health.outliers.failed(backend.provider, "reset", 0.0)

    _, first = begin(backends, health=health, first=1)

    assert first.backend is backends[1]


def test_an_ejected_provider_is_a_last_resort():
    health = Health()
    backends = make_backends("a", "b", detection=EASILY)
    health.outliers.failed(backends[1].provider, "reset", 0.0)

    assert played(*begin(backends, health=health, retry=FIVE_MORE)) == ["a", "b"]


def test_an_answer_makes_up_for_the_failure_before_it():
    health, backends = Health(), make_backends("a", detection=OutlierDetection(consecutive_errors=2))

    for _ in range(3):
        attempts, _ = begin(backends, health=health, retry=ONE_MORE)
        fail(attempts)
        attempts.succeeded(now=0.0)

    assert health.outliers.ejections == 0


def test_a_client_that_leaves_ejects_nobody():
    health, backends = Health(), make_backends("a", detection=EASILY)
    attempts, _ = begin(backends, health=health)

    attempts.abandoned()

    assert health.outliers.ejections == 0


@pytest.mark.parametrize(("hashed", "host"), [(0.1, "a"), (0.4, "b"), (0.9, "c")])
def test_a_hash_keeps_its_backend_whatever_is_drawn(hashed, host):
    backends = (A, B, C)
    at = "abc".index(host)

    hosts = [played(*begin(backends, first=at, hashed=hashed, retry=FIVE_MORE), draw=draw)[0] for draw in (0.0, 0.99)]
    again = played(*begin(backends, first=at, hashed=hashed, retry=FIVE_MORE), draw=0.0)[3:]

    assert hosts == [host, host]
    assert again == [host] * 3


# --- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "pauses"),
    [(0.0, [0.0, 0.0, 0.0]), (0.5, [0.05, 0.1, 0.15]), (0.99, [0.099, 0.198, 0.297])],
)
def test_a_pause_is_drawn_from_what_doubles_up_to_a_bound(draw, pauses):
    attempts, _ = begin((A,), retry=Retry(3, backoff_base_seconds=0.1, backoff_max_seconds=0.3))

    assert [fail(attempts, draw=draw).after_seconds for _ in range(3)] == pytest.approx(pauses)


def test_another_backend_is_asked_at_once():
    attempts, _ = begin((A, B), retry=ONE_MORE)

    assert fail(attempts, draw=0.99).after_seconds == 0


def test_a_provider_is_not_asked_before_it_wants_to_be():
    attempts, _ = begin((A,), retry=ONE_MORE)

    assert fail(attempts, "rate-limited", draw=0.1, retry_after=1.5).after_seconds == 1.5


def test_a_provider_that_wants_to_be_left_alone_for_longer_than_any_pause_is_not_asked():
    attempts, _ = begin((A,), retry=ONE_MORE)

    assert fail(attempts, "rate-limited", retry_after=2.5) is None


def test_a_provider_that_stands_in_a_rule_twice_is_not_asked_before_it_wants_to_be():
    attempts, _ = begin((A, make_backend(A.provider)), retry=ONE_MORE)

    assert fail(attempts, "rate-limited", retry_after=1.5).after_seconds == 1.5


@pytest.mark.parametrize(("now", "is_followed"), [(9.0, True), (10.0, False), (11.0, False)])
def test_no_attempt_begins_after_the_deadline_of_the_exchange(now, is_followed):
    attempts, _ = begin((A, B), retry=ONE_MORE, timeouts=Timeouts(request_seconds=10.0))

    assert (fail(attempts, now=now) is not None) is is_followed


@pytest.mark.parametrize(("now", "is_followed"), [(9.0, True), (10.0, False)])
def test_no_last_resort_begins_after_the_deadline_of_the_exchange(now, is_followed):
    health, backends = Health(), make_backends("a", "b", detection=EASILY)
    health.outliers.failed(backends[1].provider, "reset", 0.0)
    attempts, _ = begin(backends, health=health, retry=ONE_MORE, timeouts=Timeouts(request_seconds=10.0))

    assert (fail(attempts, now=now) is not None) is is_followed


def test_no_pause_goes_past_the_deadline_of_the_exchange():
    attempts, _ = begin((A,), retry=ONE_MORE, timeouts=Timeouts(request_seconds=10.0))

    assert fail(attempts, now=9.0, retry_after=1.0) is None


def test_without_budget_no_provider_is_asked_again_and_others_still_are():
    health = Health()
    while health.budget.withdraw(0.0):
        pass

    assert played(*begin((A, B), health=health, retry=FIVE_MORE)) == ["a", "b"]


# --- any order of events --------------------------------------------------------------------------

hosts = st.sampled_from(["a", "b", "c"])
# Weighted towards what lets an exchange go on: most of what can go wrong needs several attempts.
detections = st.sampled_from([None, None, OutlierDetection(consecutive_errors=2), EASILY])
limits = st.builds(
    Retry,
    st.sampled_from([0, 1, 3, 10, 10]),
    st.sampled_from([(), (), KINDS[:3], KINDS[3:]]),
    st.sampled_from([0.1, 1.0]),
    st.sampled_from([0.05, 2.0, 30.0]),
)
some_draws = st.sampled_from([0.0, 0.3, 0.7, 0.99])
retries = st.one_of(limits, limits, limits, st.none())
failures = {
    "kind": st.sampled_from([*KINDS, *["connect-failure"] * 6]),
    "retry_after": st.sampled_from([None, None, None, 0.5, 1.5, 60.0]),
    "draw": some_draws,
}


class AnyOrder(RuleBasedStateMachine):
    """One exchange that meets anything, beside others that eject providers and use up the budget."""

    @initialize(
        written=st.lists(st.tuples(hosts, st.sampled_from([1, 2, 0]), st.integers(0, 2)), min_size=1, max_size=5),
        detection=detections,
        retry=retries,
        request_seconds=st.sampled_from([2.0, 60.0, 3600.0]),
        draw=some_draws,
        is_hashed=st.booleans(),
        only_unsent=st.sampled_from([False, False, False, True]),
        may_end=st.booleans(),
        ejected=st.lists(hosts, max_size=1),
    )
    def receive(self, *, written, detection, retry, request_seconds, draw, is_hashed, only_unsent, may_end, ejected):
        providers = {host: make_provider(f"{host}.example", outlier_detection=detection) for host, _, _ in written}
        self.backends = [
            make_backend(providers[host], weight=weight, priority=priority) for host, weight, priority in written
        ]
        rule = make_rule(*self.backends, retry=retry, timeouts=Timeouts(request_seconds=request_seconds))
        chosen = pick(rule.first_tier(), draw)
        assume(chosen is not None)
        self.now, self.retry, self.only_unsent, self.chosen = 0.0, retry, only_unsent, chosen
        self.weighted = [backend for backend in self.backends if backend.weight]
        self.deadline, self.may_end = request_seconds, may_end
        self.health = Health()
        forward = Forward(chosen, make_route(rule), rule)
        self.attempts = Attempts(
            forward, self.health, now=0.0, hashed=draw if is_hashed else None, only_unsent=only_unsent
        )
        self.exchange = Exchange("1", "c", "h", wall_time=0.0, now=0.0)
        self.exchange.decision = forward
        self.made, self.ended, self.not_before = [], [], {}
        self.successes, self.is_committed, self.is_over, self.budget_is_empty = 0, False, False, False
        for host in ejected:
            self.others_fail(host, 2)
        self.first(draw)

    def first(self, draw):
        ejected = {id(backend) for backend in self.weighted if self.is_ejected(backend)}

        step = self.attempts.first(now=self.now, draw=draw)

        assert step.after_seconds == 0
        assert step.backend is self.chosen or id(self.chosen) in ejected
        assert id(step.backend) not in ejected or len(ejected) == len(self.weighted)
        self.note(step)

    # What happens.

    def fail(self, kind, retry_after, draw):
        could_go_on = self.attempts.may_go_on
        last = self.made[-1] if self.made else None

        step = self.attempts.failed(Failure(kind, "a test", retry_after_seconds=retry_after), now=self.now, draw=draw)

        if last is not None and not self.is_over:
            self.exchange.ended_attempt(kind, now=self.now)
            self.ended.append(kind)
            if retry_after is not None:
                self.not_before[last.provider.name] = self.now + retry_after
        if step is None:
            self.is_over = self.is_over or last is not None
            return
        assert last is not None
        assert could_go_on
        assert not self.is_over
        assert not self.is_committed
        assert not self.only_unsent or kind == "connect-failure"
        assert self.retry is None or not self.retry.on or kind in self.retry.on
        self.check_place(step)
        self.check_time(step)
        self.now += step.after_seconds
        self.note(step)

    # Three times among the rules: most of what can go wrong needs several failures in a row.
    failed, failed_again, failed_once_more = rule(**failures)(fail), rule(**failures)(fail), rule(**failures)(fail)

    @precondition(lambda self: self.may_end)
    @rule()
    def committed(self):
        self.attempts.committed()
        self.is_committed = True

    @precondition(lambda self: self.may_end)
    @rule()
    def succeeded(self):
        was_over = self.is_over or not self.made

        is_outcome = self.attempts.succeeded(now=self.now)

        assert is_outcome is not was_over
        if is_outcome:
            self.exchange.ended_attempt(None, now=self.now)
            self.ended.append(None)
            self.successes += 1
            self.is_over = True

    @precondition(lambda self: self.may_end)
    @rule()
    def abandoned(self):
        self.attempts.abandoned()
        self.is_over = True

    @rule(seconds=st.sampled_from([0.01, 1.0, 1.0, 40.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.budget_is_empty = False

    @rule(host=hosts, times=st.sampled_from([1, 2]))
    def others_fail(self, host, times):
        for backend in self.weighted:
            if backend.provider.host == f"{host}.example":
                for _ in range(times):
                    self.health.outliers.failed(backend.provider, "server-error", self.now)

    @rule()
    def others_use_up_the_budget(self):
        while self.health.budget.withdraw(self.now):
            pass
        self.budget_is_empty = True

    # What must hold.

    def is_ejected(self, backend):
        return self.health.outliers.is_ejected(backend.provider, self.now)

    def tried(self):
        return {backend.provider.name for backend in self.made}

    def check_place(self, step):
        assert step.backend in self.weighted
        lower = [backend for backend in self.weighted if backend.priority < step.backend.priority]
        assert all(backend.provider.name in self.tried() or self.is_ejected(backend) for backend in lower)
        if step.backend.provider.name in self.tried():
            assert not self.budget_is_empty

    def check_time(self, step):
        longest = self.retry.backoff_max_seconds if self.retry is not None else Retry(0).backoff_max_seconds
        begins = self.now + step.after_seconds
        not_before = self.not_before.get(step.backend.provider.name, 0.0)
        assert 0 <= step.after_seconds <= max(longest, not_before - self.now)
        assert begins < self.deadline
        assert begins >= not_before - 1e-9

    def note(self, step):
        self.made.append(step.backend)
        self.exchange.began_attempt(step.backend, plan(Forward(step.backend), make_request()), now=self.now)

    @invariant()
    def it_is_bounded(self):
        if not hasattr(self, "attempts"):
            return
        tiers = {backend.priority for backend in self.weighted}
        providers = {backend.provider.name for backend in self.weighted}
        by_itself = len(providers) - 1 if len(tiers) > 1 else 0
        assert len(self.made) <= 1 + (self.retry.attempts if self.retry is not None else by_itself)
        assert all(backend.weight for backend in self.made)
        assert self.health.retries == max(0, len(self.made) - 1)
        assert self.successes <= 1
        assert self.attempts.deadline == self.deadline
        assert not (self.attempts.may_go_on and (self.is_over or self.is_committed))

    def teardown(self):
        if not hasattr(self, "exchange"):
            return
        under_way = [backend.provider.name for backend in self.made][len(self.ended) :]

        records = [self.exchange.finish(now=self.now, error=error) for error in ("client_disconnected", None)]

        assert records[1] is None
        assert [(attempt.provider, attempt.error) for attempt in records[0].attempts] == [
            *((backend.provider.name, error) for backend, error in zip(self.made, self.ended, strict=False)),
            *((name, "client_disconnected") for name in under_way),
        ]
        assert all(attempt.duration_seconds >= 0 for attempt in records[0].attempts)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=300, stateful_step_count=20, deadline=None)
