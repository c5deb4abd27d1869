"""
The certificate of the webhooks: made by ourselves, renewed in time, and kept in one Secret.

The Secret holds a CA and what it issued, so that all replicas serve the same and the API server trusts each.
When a CA is renewed, the one before stays in the bundle until it ends: nobody is distrusted on the way.

Source: Kubernetes, "Dynamic Admission Control", `caBundle`.
"""

import base64
import binascii
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sidestream.control.issuing import issue, make_ca
from sidestream.sources.kubernetes.objects import Object

CA_LIFETIME = dt.timedelta(days=3650)
LIFETIME = dt.timedelta(days=90)
BACKDATED = dt.timedelta(hours=1)
"""How far before now validity starts, for clocks that are behind."""
RENEWED_AT = 2 / 3
"""What part of its life passes until a certificate is renewed."""


@dataclass(frozen=True, slots=True)
class Serving:
    """
    What is served, as PEM.

    `ca_bundle`: the CA that issues, first, and those before it that are still trusted.
    """

    ca_bundle: bytes
    ca_key: bytes = field(repr=False)
    certificate: bytes
    key: bytes = field(repr=False)

    def data(self) -> dict[str, str]:
        """Return it as the data of a Secret of the type kubernetes.io/tls."""
        parts = {"ca.crt": self.ca_bundle, "ca.key": self.ca_key, "tls.crt": self.certificate, "tls.key": self.key}
        return {name: base64.b64encode(content).decode() for name, content in parts.items()}


def parse_serving(secret: Object) -> Serving | None:
    """Return what a Secret holds, ``None`` if it is nothing that can be served."""
    data: dict[str, Any] = secret.get("data") or {}
    try:
        parts = [base64.b64decode(data[name], validate=True) for name in ("ca.crt", "ca.key", "tls.crt", "tls.key")]
    except (KeyError, TypeError, binascii.Error):
        return None
    serving = Serving(*parts)
    try:
        _Opened(serving)
    except (ValueError, TypeError, IndexError):
        return None
    return serving


def renewed(before: Serving | None, names: Sequence[str], now: dt.datetime) -> Serving | None:
    """
    Return what is to be served from now on, ``None`` when `before` is still good.

    `names`: the DNS names that the API server may call it by, the one it does first.
    """
    opened = _Opened(before) if before is not None else None
    if opened is None or _is_old(opened.ca, now):
        ca_key = ec.generate_private_key(ec.SECP256R1())
        # With the time in its name, so that two that follow one another are not taken for one.
        ca = make_ca(f"Sidestream webhooks {now:%Y-%m-%d %H:%M:%S}", ca_key, (now - BACKDATED, now + CA_LIFETIME))
        trusted = [ca, *(old for old in (opened.bundle if opened else []) if old.not_valid_after_utc > now)]
    else:
        if not _is_old(opened.certificate, now) and _names(opened.certificate) == list(names):
            return None
        ca_key, ca, trusted = opened.ca_key, opened.ca, opened.bundle
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [x509.DNSName(name) for name in names]
    certificate = issue(ca, ca_key, key, "Sidestream webhooks", alternatives, (now - BACKDATED, now + LIFETIME))
    return Serving(b"".join(_pem(one) for one in trusted), _pem_key(ca_key), _pem(certificate), _pem_key(key))


class _Opened:
    """
    A `Serving` with its parts parsed.

    Raises:
        ValueError: it is no PEM, or its parts do not belong together.
    """

    def __init__(self, serving: Serving) -> None:
        self.bundle = x509.load_pem_x509_certificates(serving.ca_bundle)
        self.ca = self.bundle[0]
        self.ca_key = _private(serving.ca_key)
        self.certificate = x509.load_pem_x509_certificate(serving.certificate)
        pairs = ((self.ca, self.ca_key), (self.certificate, _private(serving.key)))
        if any(certificate.public_key() != key.public_key() for certificate, key in pairs):
            raise ValueError("a key is not that of its certificate")
        try:
            self.certificate.verify_directly_issued_by(self.ca)
        except Exception as e:  # it has an error of its own for a wrong signature
            raise ValueError("the certificate is not the CA's") from e


def _is_old(certificate: x509.Certificate, now: dt.datetime) -> bool:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return not start <= now < start + (end - start) * RENEWED_AT


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("only keys of elliptic curves are made here")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
