import base64
import datetime as dt

import pytest
from cryptography import x509

from sidestream.control.certificates import CA_LIFETIME, LIFETIME, parse_serving, renewed

NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
NAMES = ["sidestream-controller.sidestream-system.svc"]


def at(part: float, of: dt.timedelta = LIFETIME) -> dt.datetime:
    return NOW + of * part


@pytest.fixture(scope="module")
def first():
    return renewed(None, NAMES, NOW)


def test_what_is_new_is_kept(first):
    assert renewed(first, NAMES, NOW) is None
    assert renewed(first, NAMES, at(0.6)) is None


def test_what_is_kept_in_a_secret_is_read_back(first):
    assert parse_serving({"data": first.data()}) == first


def test_a_certificate_is_renewed_long_before_it_ends_and_by_the_same_ca(first):
    second = renewed(first, NAMES, at(0.7))

    assert second.ca_bundle == first.ca_bundle
    assert second.certificate != first.certificate
    assert renewed(second, NAMES, at(0.7)) is None


def test_a_ca_that_is_renewed_is_trusted_beside_the_one_before(first):
    later = at(0.7, CA_LIFETIME)
    second = renewed(first, NAMES, later)

    assert second.ca_bundle.endswith(first.ca_bundle)
    assert len(x509.load_pem_x509_certificates(second.ca_bundle)) == 2
    third = renewed(second, NAMES, at(1.4, CA_LIFETIME))
    assert first.ca_bundle not in third.ca_bundle


def test_other_names_need_another_certificate(first):
    assert renewed(first, ["other.svc"], NOW).ca_bundle == first.ca_bundle


def test_a_clock_that_went_back_does_not_leave_a_certificate_that_is_not_yet_valid(first):
    assert renewed(first, NAMES, NOW - dt.timedelta(days=1)) is not None


@pytest.mark.parametrize("part", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
def test_a_secret_that_holds_anything_else_is_made_anew(first, part, content):
    data = first.data()
    data[part] = base64.b64encode(content).decode() if content is not None else None

    assert parse_serving({"data": data}) is None


def test_parts_that_do_not_belong_together_are_made_anew(first):
    other = renewed(None, NAMES, NOW)

    for part in first.data():
        assert parse_serving({"data": first.data() | {part: other.data()[part]}}) is None
    assert parse_serving({}) is None


def test_no_private_key_is_shown(first):
    assert b"PRIVATE KEY" in first.key
    assert "PRIVATE KEY" not in repr(first)
