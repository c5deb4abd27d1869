import contextlib
import threading

import pytest

from sidestream.control.electing import Electing, Timing
from tests.control.cluster import keyed
from tests.kubernetes.clusters import api_of, controlling

PATIENT = Timing(lease=60.0, deadline=40.0, retry=0.05)
"""What happens within a test is no matter of the lease's end."""
SHORT = Timing(lease=3.0, deadline=0.5, retry=0.05)
LEASE = ("sidestream-system", "sidestream-controller")


class Replica:
    """One that stands for election. `was`: what it was told, in order."""

    def __init__(self, server, identity: str, timing: Timing) -> None:
        self.was: list[bool] = []
        self.electing = Electing(api_of(server), LEASE, identity, self.was.append, timing)
        self.electing.start()

    @property
    def leads(self) -> bool:
        return self.electing.leads


@pytest.fixture
def replica(server):
    with contextlib.ExitStack() as stack:

        def start(identity: str, timing: Timing = PATIENT) -> Replica:
            replica = Replica(server, identity, timing)
            stack.callback(replica.electing.stop)
            return replica

        yield start


def held_by(server) -> str:
    return (server.get("Lease", LEASE[1], LEASE[0]) or {"spec": {}})["spec"].get("holderIdentity", "")


def test_of_two_replicas_one_leads(server, replica):
    replicas = [replica("one"), replica("two")]
    server.wait(lambda: sum(one.leads for one in replicas) == 1)
    renewals = server.count("update", "leases")
    server.wait(lambda: server.count("update", "leases") > renewals + 3)

    assert sum(one.leads for one in replicas) == 1
    assert sorted(one.was for one in replicas) == [[], [True]]


def test_a_leader_that_stops_hands_over_at_once(server, replica):
    first = replica("one")
    server.wait(lambda: first.leads)
    second = replica("two")

    first.electing.stop()
    server.wait(lambda: second.leads)

    assert first.was == [True, False]
    assert held_by(server) == "two"


def test_a_leader_that_is_cut_off_stops_before_another_one_starts(server, replica, monkeypatch):
    order = []
    first = replica("one", SHORT)
    server.wait(lambda: first.leads)
    second = replica("two", SHORT)
    first.electing._tell = lambda leads: order.append(("one", leads))
    second.electing._tell = lambda leads: order.append(("two", leads))
    first.electing._api._host = "http://127.0.0.1:9"  # nobody is there

    server.wait(lambda: second.leads)

    assert order == [("one", False), ("two", True)]


def test_a_leader_whose_renewal_hangs_leads_no_longer_than_its_deadline(server, replica, monkeypatch):
    one = replica("one", SHORT)
    server.wait(lambda: one.leads)
    hanging = threading.Event()
    monkeypatch.setattr(one.electing, "_hold", lambda: hanging.wait(30))

    server.wait(lambda: not one.leads)

    assert one.was == [True]  # the thread hangs: whoever writes has to ask
    hanging.set()


def test_a_conflict_is_no_lead(server, replica):
    server.faults.conflicts = 3
    one = replica("one")
    server.wait(lambda: one.leads)
    renewals = server.count("update", "leases")
    server.wait(lambda: server.count("update", "leases") > renewals + 4)
    server.wait(lambda: one.leads)


def test_control_planes_that_hand_over_leave_nothing_undone(server):
    with controlling(server, leads=False) as one, controlling(server, leads=False) as two:
        first = Electing(api_of(server), LEASE, "one", lambda leads: one.lead(leads=leads), PATIENT)
        first.start()
        server.wait(lambda: first.leads)
        second = Electing(api_of(server), LEASE, "two", lambda leads: two.lead(leads=leads), PATIENT)
        second.start()
        stopping = threading.Thread(target=first.stop)
        for number in range(10):
            server.apply(keyed(f"p{number}.example", f"apiKey: sk-{number}", name=f"p{number}"))
            if number == 4:
                stopping.start()
        server.wait(lambda: len(server.files()) == 20)
        server.wait(
            lambda: all(
                server.condition("LLMProvider", f"p{number}", "Programmed").get("status") == "True"
                for number in range(10)
            )
        )
        stopping.join()
        second.stop()
