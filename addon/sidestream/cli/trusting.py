"""
What apps are to trust when their TLS is intercepted, as files in a folder that they can read.

Only certificates are written; the CA's private key stays in confdir. A bundle that held our CA alone would break
every connection that is not intercepted, so the system's come first, and those that were given besides.
"""

import contextlib
import os
import re
import ssl
import tempfile
import warnings
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

from sidestream.mitm.runtime import Inside

CA_NAME, BUNDLE_NAME, KEYSTORE_NAME = "ca.crt", "ca-bundle.crt", "ca-bundle.p12"
KEYSTORE_PASSWORD = b"changeit"
"""What everybody uses for certificates that are no secret: Java asks for one."""
_MADE_BY_MITMPROXY = "mitmproxy-ca-cert.pem"
_READABLE_BY_ALL = 0o644
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n?", re.DOTALL)


class Trust:
    """Writes `folder` when the proxy starts, before the admin endpoint can say that it is ready."""

    def __init__(self, folder: Path, confdir: Path, upstream_ca_pem: str) -> None:
        self._folder = folder
        self._ca = confdir / _MADE_BY_MITMPROXY
        self._upstream_ca_pem = upstream_ca_pem

    def open(self, _: Inside) -> None:
        """
        Write the files.

        Raises:
            ValueError: a file can't be read or written; the message says which.
        """
        try:
            # What else may stand in the file is not for apps.
            own = "".join(
                certificate.public_bytes(Encoding.PEM).decode()
                for certificate in x509.load_pem_x509_certificates(self._ca.read_bytes())
            )
            system = Path(ssl.get_default_verify_paths().cafile or certifi.where()).read_text(encoding="utf-8")
            bundle = "\n".join(filter(None, (system, self._upstream_ca_pem, own)))
            for name, content in (
                (CA_NAME, own.encode()),
                (BUNDLE_NAME, bundle.encode()),
                (KEYSTORE_NAME, _keystore(bundle)),
            ):
                _write(self._folder / name, content)
        except (OSError, ValueError) as e:
            raise ValueError(f"what apps are to trust can't be written: {e}") from e

    def close(self) -> None:
        """Leave the files: apps may run on."""


def _keystore(bundle: str) -> bytes:
    """Return the certificates of `bundle` as Java reads them, but those that are made against the rules."""
    entries = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some CAs of the system's are old
        for number, pem in enumerate(_CERTIFICATE.findall(bundle)):
            with contextlib.suppress(ValueError):
                entries.append(PKCS12Certificate(x509.load_pem_x509_certificate(pem.encode()), b"ca-%d" % number))
        return serialize_java_truststore(entries, BestAvailableEncryption(KEYSTORE_PASSWORD))


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there at once and whole, whoever reads it meanwhile."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), _READABLE_BY_ALL)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
