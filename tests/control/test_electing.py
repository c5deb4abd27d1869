from sidestream.control.electing import Seen, Timing

WRITTEN = "2026-11-25T12:00:00.000000Z"


def seen(identity: str = "us") -> Seen:
    return Seen(identity, Timing(lease=15, deadline=10, retry=2))


def lease(holder: str = "them", renewed: int = 0, seconds: int = 15) -> dict:
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": seconds,
        "acquireTime": "before",
        "renewTime": f"renewal {renewed}",
        "leaseTransitions": 3,
    }
    return {"spec": spec}


def test_a_lease_that_is_not_there_is_ours():
    assert seen().claim(None, now=0, written=WRITTEN) == {
        "holderIdentity": "us",
        "leaseDurationSeconds": 15,
        "acquireTime": WRITTEN,
        "renewTime": WRITTEN,
        "leaseTransitions": 0,
    }


def test_a_lease_of_another_is_waited_for_as_long_as_it_lasts():
    ours = seen()

    assert ours.claim(lease(), now=100, written=WRITTEN) is None
    assert ours.claim(lease(), now=114, written=WRITTEN) is None
    assert ours.claim(lease(), now=115, written=WRITTEN)["leaseTransitions"] == 4


def test_a_renewal_starts_the_wait_anew():
    ours = seen()

    assert ours.claim(lease(renewed=1), now=100, written=WRITTEN) is None
    assert ours.claim(lease(renewed=2), now=114, written=WRITTEN) is None
    assert ours.claim(lease(renewed=2), now=128, written=WRITTEN) is None
    assert ours.claim(lease(renewed=2), now=129, written=WRITTEN) is not None


def test_a_lease_that_was_given_up_is_taken_at_once():
    assert seen().claim(lease(holder=""), now=0, written=WRITTEN)["leaseTransitions"] == 4


def test_our_own_lease_is_renewed_and_keeps_its_beginning():
    renewed = seen().claim(lease(holder="us"), now=0, written=WRITTEN)

    assert (renewed["acquireTime"], renewed["renewTime"], renewed["leaseTransitions"]) == ("before", WRITTEN, 3)
