"""
A private certificate authority, made on the fly, for the stand-in's TLS.

The authority's key never leaves memory: whoever trusts `Authority.ca_file` trusts what
this process issues and nothing else.
"""

import datetime as dt
import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidestream.control.issuing import Validity, issue, make_ca

LIFETIME = dt.timedelta(days=30)
"""How long the authority and its certificates are valid."""

BACKDATED = dt.timedelta(days=1)
"""How far before now validity starts, so that a client whose clock is behind still connects."""

MAX_COMMON_NAME = 64
"""Characters a common name may have (RFC 5280, ub-common-name)."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One issued certificate: PEM files as `ssl.SSLContext.load_cert_chain` takes them."""

    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A private CA. Make one with `create`; hand `ca_file` to whoever has to trust it."""

    ca_file: Path
    _certificate: x509.Certificate = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Make a new CA; `folder` (made when absent) receives its certificate and all it issues."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = make_ca("Sidestream stand-in CA", key, _validity())
        ca_file = folder / "ca.pem"
        ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(ca_file, certificate, key)

    def issue(self, *names: str) -> Certificate:
        """
        Issue a server certificate for `names`, DNS names (wildcards too) and IP addresses alike.

        Each call makes new files beside `ca_file`, so certificates for the same name live together.

        Raises:
            ValueError: no name was given.
        """
        if not names:
            raise ValueError("a certificate needs at least one name")
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [_general_name(name) for name in names]
        certificate = issue(self._certificate, self._key, key, names[0][:MAX_COMMON_NAME], alternatives, _validity())
        return self._write(certificate, key)

    def _write(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Certificate:
        common_name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        readable = re.sub(r"[^A-Za-z0-9.-]", "_", str(common_name))
        stem = self.ca_file.parent / f"{readable}-{certificate.serial_number:x}"
        issued = Certificate(Path(f"{stem}.pem"), Path(f"{stem}.key"))
        issued.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = os.open(issued.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(private, "wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        return issued


def _validity() -> Validity:
    now = dt.datetime.now(dt.UTC)
    return now - BACKDATED, now + LIFETIME


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
