import shutil
import ssl
import stat
import subprocess

import pytest

from sidestream.demo.certificates import Authority
from sidestream.demo.standin import running


@pytest.mark.parametrize("server_name", ["localhost", "dashscope.standin.test", "127.0.0.1", "::1"])
def test_strict_verification_accepts_every_name(standin, connect, trust, server_name):
    trust.verify_flags |= ssl.VERIFY_X509_STRICT

    connection = connect(standin, server_name=server_name)

    assert connection.version() == "TLSv1.3"


def test_a_name_that_was_not_issued_is_refused(standin, connect):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(standin, server_name="api.example.com")


def test_another_authority_is_not_trusted(tmp_path, connect):
    stranger = Authority.create(tmp_path / "new" / "folder").issue("localhost")

    with running(stranger) as standin, pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        connect(standin)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_verifies_strictly(authority, certificate):
    strictly = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", authority.ca_file]

    verified = subprocess.run([*strictly, certificate.cert_file], capture_output=True, text=True, check=False)

    assert verified.returncode == 0, verified.stderr


def test_only_the_owner_reads_a_key(certificate):
    assert stat.S_IMODE(certificate.key_file.stat().st_mode) == 0o600


def test_the_authority_key_is_not_on_disk(tmp_path):
    Authority.create(tmp_path)

    assert [file.name for file in tmp_path.iterdir()] == ["ca.pem"]
    assert b"PRIVATE" not in (tmp_path / "ca.pem").read_bytes()


def test_certificates_for_the_same_name_live_together(authority):
    first, second = authority.issue("twice.test"), authority.issue("twice.test")

    assert first.cert_file.read_bytes() != second.cert_file.read_bytes()


def test_a_long_name_is_issued(authority):
    name = ".".join(["a" * 40] * 3)

    assert authority.issue(name).cert_file.exists()


def test_no_name_is_refused(authority):
    with pytest.raises(ValueError, match="at least one name"):
        authority.issue()
