import pytest

from tests.transparent import pods


@pytest.fixture(scope="session")
def shared_outside():
    with pods.outside() as outside:
        yield outside


@pytest.fixture
def outside(shared_outside: pods.Outside):
    """The world outside the pods, as if no provider had been called yet."""
    shared_outside.dashscope.clear()
    shared_outside.moonshot.clear()
    return shared_outside


@pytest.fixture(scope="session")
def shared_pod(shared_outside: pods.Outside):
    """A pod with the default options. Modules that want others have a fixture of this name."""
    with pods.pod(shared_outside) as pod:
        yield pod


@pytest.fixture
def pod(shared_pod: pods.Pod):
    """The pod; what a test connects is closed at its end."""
    yield shared_pod
    shared_pod.hang_up()
