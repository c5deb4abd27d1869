import pytest

from sidestream.demo.certificates import Authority
from tests.upstream.provider import NAME


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def another_authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("another-ca"))


@pytest.fixture(scope="session")
def certificate(authority):
    return authority.issue(NAME, "another.test")
