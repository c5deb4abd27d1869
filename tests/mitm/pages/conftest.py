import pytest
from mitmproxy.addons.view import View
from mitmproxy.test import taddons

from sidestream.mitm.pages import views
from sidestream.mitm.pages.addon import Pages
from tests.mitm.pages.showing import Shown
from tests.mitm.test_requests import make_hooks


@pytest.fixture
def shown():
    requests, _ = make_hooks()
    view = View()
    pages = Pages(requests._current, requests, view)
    with taddons.context(view, pages) as context:
        shown = Shown(requests, view, pages, [], context.master.commands)
        context.master.addons.add(type("Watching", (), {"update": lambda _, flows: shown.update(flows)})())
        views.install(shown.pages.store)
        yield shown
