import pytest

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


@pytest.fixture(scope="module")
def proxy(shared_world: World):
    """`sidestream run` as a regular proxy, with the published policies."""
    with sidestream_run(shared_world) as proxy:
        yield proxy
