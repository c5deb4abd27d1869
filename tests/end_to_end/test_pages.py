"""mitmweb in a real browser: what it shows of LLM traffic, and that no key is in it."""

import contextlib
import http.client
import json
import re
from dataclasses import dataclass

import pytest

from tests.browser import Browser, browsing, skip_unless_possible
from tests.sdk_calls import CLIENT_KEY
from tests.world import DASHSCOPE_KEY, MOONSHOT_KEY, Proxy, free_port, make_world, sidestream_run

HOST = "dashscope.aliyuncs.com"
MARKERS = (DASHSCOPE_KEY, MOONSHOT_KEY, CLIENT_KEY)
PASSWORD = "open-sesame"
VIP = {"user-type": "subscriber"}
UNDER_WAY = "vip-route → dashscope-qwen qwen-turbo · …"
ENDED = re.compile(r"vip-route → dashscope-qwen qwen-turbo · \d+→\d+ tok · [\d.]+ s$", re.MULTILINE)
OF_MOONSHOT = re.compile(r"moonshot moonshot-v1-8k · \d+→\d+ tok · [\d.]+ s$", re.MULTILINE)


@dataclass
class Mitmweb:
    proxy: Proxy
    browser: Browser
    web_port: int

    @property
    def page(self):
        return self.browser.page

    @contextlib.contextmanager
    def call(self, question, host=HOST, **headers):
        """Begin a streamed call, and leave when the block ends."""
        body = {"messages": [{"role": "user", "content": question}], "stream": True}
        fields = {"content-type": "application/json", "authorization": f"Bearer {CLIENT_KEY}", "api-key": CLIENT_KEY}
        client = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=30)
        with contextlib.closing(client):
            client.request("POST", f"http://{host}/v1/chat/completions", json.dumps(body), fields | headers)
            with client.getresponse() as answer:
                yield answer

    def finish_call(self, question, host=HOST, comment=ENDED, **headers):
        """Make a call to its end; return its row in the list, once it is there."""
        before = self.rows(comment).count()
        with self.call(question, host, **headers) as answer:
            answer.read()
        return self.row(comment, before)

    def rows(self, comment):
        return self.page.locator(".flow-table tbody tr").filter(has_text=comment)

    def row(self, comment, number=0):
        """Return the row of a flow that has `comment`, once there are more than `number`."""
        row = self.rows(comment).nth(number)
        row.wait_for()
        return row

    @contextlib.contextmanager
    def command_bar(self):
        """Have the command bar; give what runs a command in it."""
        self.page.get_by_text("Options", exact=True).click()
        self.page.get_by_text("Display Command Bar").click()
        field = self.page.locator(".command-input input")

        def run(command):
            field.fill(command)
            field.press("Enter")

        yield run
        self.page.get_by_text("Display Command Bar").click()

    def open(self, row, part="Response", view=None):
        """Open a flow; return where its page shows what was said."""
        row.click()
        self.page.get_by_role("link", name=part, exact=True).click()
        if view is not None:
            self.page.get_by_text("View:").click()
            self.page.get_by_text(view, exact=True).click()
        return self.page.locator(".contentview")


@pytest.fixture(scope="module")
def mitmweb(tmp_path_factory):
    skip_unless_possible()
    folder, port = tmp_path_factory.mktemp("pages"), free_port()
    flags = ("--web", "--admin", "off", "--set", f"web_port={port}", "--set", f"web_password={PASSWORD}")
    with make_world(folder) as world, sidestream_run(world, *flags) as proxy, browsing(folder) as browser:
        browser.page.set_default_timeout(20_000)
        browser.page.goto(f"http://127.0.0.1:{port}/?token={PASSWORD}")
        browser.page.get_by_text("connected").wait_for(state="attached")
        yield Mitmweb(proxy, browser, port)


def test_a_streamed_call_is_a_conversation_while_it_comes(mitmweb):
    with mitmweb.call("how are you?", **VIP, **{"x-standin": "events=6 stall=4"}):
        page = mitmweb.open(mitmweb.row(UNDER_WAY))
        page.get_by_text("the answer is under way").wait_for()
        page.get_by_text("hello from").wait_for()
        said = page.inner_text()
    mitmweb.row("client_disconnected")

    assert "how are you?" in said
    assert "hello from dashscope: model=qwen-turbo" not in said


def test_a_call_that_has_ended_shows_what_was_said_and_the_decision(mitmweb):
    page = mitmweb.open(mitmweb.finish_call("who are you?", **VIP))
    page.get_by_text("who are you?").wait_for()

    said = page.inner_text()
    assert "hello from dashscope: model=qwen-turbo" in said
    assert re.search(r"tokens +\d+ prompt → \d+ completion", said)
    assert "rule 'vip-route' of default/dashscope-route is the first that matches" in said
    assert "✓ header user-type exact subscriber: it is 'subscriber'" in said
    assert "100% to default/dashscope-qwen qwen-turbo  ← it went here" in said


def test_flows_are_found_by_what_their_comments_say(mitmweb):
    mitmweb.finish_call("find me", "api.moonshot.cn", OF_MOONSHOT)
    mitmweb.finish_call("but not me", **VIP)
    mitmweb.page.get_by_text("Flow List", exact=True).click()

    search = mitmweb.page.get_by_placeholder("Search")
    search.fill("~comment moonshot")
    mitmweb.rows("dashscope-qwen").first.wait_for(state="detached")
    found = mitmweb.rows(OF_MOONSHOT).count()
    search.fill("")
    mitmweb.row(ENDED)

    assert found > 0


def test_flows_are_found_by_their_metadata_with_a_command(mitmweb):
    mitmweb.finish_call("find me", "api.moonshot.cn", OF_MOONSHOT)
    mitmweb.finish_call("but not me", **VIP)

    with mitmweb.command_bar() as run:
        run('set view_filter "~meta sidestream.provider:.*moonshot"')
        mitmweb.rows("dashscope-qwen").first.wait_for(state="detached")
        found = mitmweb.rows(OF_MOONSHOT).count()
        run("options.reset.one view_filter")
        mitmweb.row(ENDED)

    assert found > 0


def test_a_request_is_sent_again_from_the_command_bar(mitmweb):
    page = mitmweb.open(mitmweb.finish_call("once more", **VIP))
    page.get_by_text("once more").wait_for()
    before = mitmweb.rows(OF_MOONSHOT).count()

    with mitmweb.command_bar() as run:
        run("sidestream.replay-with @focus moonshot")
        mitmweb.page.get_by_text("sent again to default/moonshot: 1").wait_for()
    page = mitmweb.open(mitmweb.row(OF_MOONSHOT, before))
    page.get_by_text("sent again to default/moonshot, by hand").wait_for()

    assert "once more" in page.inner_text()
    assert "hello from moonshot" in page.inner_text()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_the_password_there_is_no_page(mitmweb, method):
    stranger = http.client.HTTPConnection("127.0.0.1", mitmweb.web_port, timeout=30)

    with contextlib.closing(stranger):
        stranger.request(method, "/", headers={"cookie": "_mitmproxy_xsrf=1", "x-xsrftoken": "1"})
        answer = stranger.getresponse()

        assert answer.status == 403
        assert b"static/index" not in answer.read()


def test_no_key_is_in_the_page_nor_in_what_it_was_told(mitmweb):
    row = mitmweb.finish_call("keep it", **VIP)
    mitmweb.open(row).get_by_text("keep it").wait_for()
    mitmweb.open(row, "Request", "llm diff").get_by_text("+ authorization: Bearer [redacted]").wait_for()
    for part in ("Connection", "Timing", "Comment"):
        mitmweb.page.get_by_role("link", name=part, exact=True).click()

    heard = mitmweb.browser.heard()

    # What is looked for would be found: the conversation, the credentials' places, the list's updates.
    everything = b"\n".join(heard.values())
    assert all(part in everything for part in (b"keep it", b"Bearer [redacted]", b'"flows/update"', b"LLM diff"))
    assert [(where, marker) for where, said in heard.items() for marker in MARKERS if marker.encode() in said] == []
