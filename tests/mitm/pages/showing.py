"""Our hooks of requests, mitmproxy's view and the pages' addon, driven hook by hook."""

from dataclasses import dataclass

from mitmproxy.addons.view import View
from mitmproxy.command import CommandManager
from mitmproxy.contentviews import prettify_message

from sidestream.mitm.pages.addon import Pages
from sidestream.mitm.requests import RequestHooks
from tests.mitm.test_requests import answer_with

CLIENT_KEY = "sk-clients-own"
CHAT = b'{"messages": [{"role": "user", "content": "who are you?"}], "stream": true}'
EVENT = b'data: {"model": "qwen-turbo", "choices": [{"index": 0, "delta": {"content": "I am %s"}}]}\n\n'


@dataclass
class Shown:
    requests: RequestHooks
    view: View
    pages: Pages
    updated: list
    commands: CommandManager

    def update(self, flows):
        self.updated += flows

    def come(self, flow):
        self.requests.requestheaders(flow)
        self.view.requestheaders(flow)
        self.requests.request(flow)
        self.pages.request(flow)
        return flow

    def begin_answer(self, flow, *chunks, content_type="text/event-stream"):
        answer_with(flow, **{"content-type": content_type})
        self.requests.responseheaders(flow)
        for chunk in chunks:
            flow.response.stream(chunk)

    def end(self, flow):
        self.requests.response(flow)
        self.pages.response(flow)

    def page(self, flow, message="response", name="auto"):
        return prettify_message(getattr(flow, message), flow, name)
