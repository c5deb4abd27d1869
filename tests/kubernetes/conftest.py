import pytest

from tests.kubernetes.apiserver import running
from tests.kubernetes.clusters import api_of


@pytest.fixture
def server():
    with running() as server:
        yield server


@pytest.fixture
def api(server):
    return api_of(server)
