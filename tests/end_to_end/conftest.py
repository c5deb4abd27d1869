import pytest

from tests.end_to_end.bench import Bench, make_bench
from tests.world import World, make_world, sidestream_run


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory):
    with make_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(shared_world: World):
    """The stand-in providers, as if nobody had called them yet."""
    shared_world.clear()
    return shared_world


@pytest.fixture(scope="session")
def proxy(shared_world: World):
    """`sidestream run` as a regular proxy, with the published policies."""
    with sidestream_run(shared_world, policies=shared_world.policies("policies-of-all")) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def shared_bench(shared_world: World):
    with make_bench(shared_world) as bench:
        yield bench


@pytest.fixture
def bench(shared_bench: Bench):
    """A proxy and providers that fail, and a witness that has seen nothing yet."""
    shared_bench.witness.requests.clear()
    shared_bench.witness.accepted = shared_bench.other.accepted = 0
    return shared_bench


@pytest.fixture
def proxy_ca(shared_world: World):
    """The CA of every proxy that decrypts."""
    return shared_world.folder / "confdir/mitmproxy-ca-cert.pem"
