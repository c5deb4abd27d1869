"""
What apps are to trust when their TLS is intercepted, as files in a folder that they can read.

Only certificates are written; the CA's private key stays in confdir. A bundle that held our CA alone would break
every connection that is not intercepted, so the system's come first, and those that were given besides.
"""

import contextlib
import os
import ssl
import tempfile
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sidestream.mitm.runtime import Inside

CA_NAME, BUNDLE_NAME = "ca.crt", "ca-bundle.crt"
_MADE_BY_MITMPROXY = "mitmproxy-ca-cert.pem"
_READABLE_BY_ALL = 0o644


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
            _write(self._folder / CA_NAME, own)
            _write(self._folder / BUNDLE_NAME, "\n".join(filter(None, (system, self._upstream_ca_pem, own))))
        except (OSError, ValueError) as e:
            raise ValueError(f"what apps are to trust can't be written: {e}") from e

    def close(self) -> None:
        """Leave the files: apps may run on."""


def _write(path: Path, text: str) -> None:
    """Write a file that is there at once and whole, whoever reads it meanwhile."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), _READABLE_BY_ALL)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
