"""What is said of connections that are not for the proxy to have."""

import logging

from mitmproxy.proxy import mode_servers

from sidestream.mitm.engine.clients import ForgiveProbes


def test_a_probe_of_the_port_is_no_error(caplog):
    ForgiveProbes.install()

    mode_servers.logger.error("Transparent mode failure: FileNotFoundError(2, 'No such file or directory')")

    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_port_that_is_taken_stays_an_error(caplog):
    ForgiveProbes.install()

    mode_servers.logger.error("Transparent Proxy failed to listen on 127.0.0.1:15001")

    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_it_is_installed_once():
    ForgiveProbes.install()
    ForgiveProbes.install()

    assert len([each for each in mode_servers.logger.filters if isinstance(each, ForgiveProbes)]) == 1
