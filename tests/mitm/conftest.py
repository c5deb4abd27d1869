import pytest
from mitmproxy.addons.block import Block
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.test import taddons


@pytest.fixture
def mitmproxy():
    """A mitmproxy that has the addons whose options and members ours uses, and does not run."""
    with taddons.context(Proxyserver(), NextLayer(), TlsConfig(), Block()) as context:
        yield context
