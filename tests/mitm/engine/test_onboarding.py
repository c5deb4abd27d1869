"""mitmproxy's page at mitm.it, and requests that are not for it."""

import inspect

import pytest
from mitmproxy.addons import asgiapp
from mitmproxy.addons.onboarding import Onboarding
from mitmproxy.test import taddons, tflow

from sidestream.mitm.addon import Sidestream
from sidestream.mitm.engine.onboarding import QuickOnboarding


@pytest.fixture
def onboarding():
    addon = Onboarding()
    with taddons.context(addon) as context:
        QuickOnboarding.specialise(context.master.addons)
        assert type(addon) is QuickOnboarding
        yield addon, context


def flow_for(host):
    flow = tflow.tflow()
    flow.request.host = host
    return flow


async def test_a_request_for_another_host_is_done_with_at_once(onboarding):
    addon, _ = onboarding

    assert addon.request(flow_for("dashscope.aliyuncs.com")) is None


async def test_the_page_is_there(onboarding):
    addon, _ = onboarding
    flow = flow_for("mitm.it")
    flow.request.path = "/"

    await addon.request(flow)

    assert flow.response.status_code == 200
    assert b"certificate" in flow.response.content.lower()


async def test_the_page_may_be_off_and_elsewhere(onboarding):
    addon, context = onboarding

    context.configure(addon, onboarding_host="ca.example")
    elsewhere = addon.request(flow_for("ca.example"))
    context.configure(addon, onboarding=False)

    await elsewhere
    assert addon.request(flow_for("ca.example")) is None


async def test_our_addon_brings_it_along():
    addon = Onboarding()
    with taddons.context(addon) as context:
        context.master.addons.add(Sidestream(lambda _: None))

        assert type(addon) is QuickOnboarding


def test_mitmproxys_own_does_nothing_else():
    source = inspect.getsource(Onboarding.request) + inspect.getsource(asgiapp.ASGIApp.request)

    assert "if ctx.options.onboarding:\n            await super().request(f)\n" in source
    assert "if self.should_serve(flow):\n            await serve(self.asgi_app, flow)\n" in source
