import io
import logging
import queue

import pytest
import urllib3

from sidestream.sources.kubernetes.api import ApiError, PatchType, Watch
from sidestream.sources.kubernetes.objects import PROVIDERS, SECRETS, Listed
from sidestream.sources.kubernetes.watching import Wanted, Watching
from tests.control.cluster import MARKER, keyed, secret
from tests.kubernetes.clusters import api_of

SECONDS = 10


def named(name: str, host: str = "") -> dict:
    return keyed(host or f"{name}.example", name=name)


class Told:
    """What a watch told of: names by what is known after each event."""

    def __init__(self) -> None:
        self.events = queue.Queue()
        self.known: dict[str, str] = {}
        self.lists = 0

    def until(self, **hosts: str) -> None:
        """Take in events until exactly `hosts` are known: name → host."""
        while self.known != hosts or not self.lists:
            event = self.events.get(timeout=SECONDS)
            if isinstance(event, Listed):
                self.lists += 1
                self.known = {item["metadata"]["name"]: item["spec"]["host"] for item in event.items}
            elif event.deleted:
                del self.known[event.content["metadata"]["name"]]
            else:
                self.known[event.content["metadata"]["name"]] = event.content["spec"]["host"]


@pytest.fixture
def told(api):
    told = Told()
    watching = Watching(api, Wanted(PROVIDERS), told.events.put, backoff_seconds=(0.01, 0.05))
    told.start = watching.start
    yield told
    watching.stop()
    assert not watching._thread.is_alive()


def watched(server) -> bool:
    return server.count("watch", "llmproviders") > 0


def test_what_is_there_is_listed_and_what_happens_is_told(server, told):
    server.apply(named("alpha"))
    told.start()
    told.until(alpha="alpha.example")

    server.apply(named("beta"))
    server.apply(named("alpha", "other.example"))
    told.until(alpha="other.example", beta="beta.example")
    server.remove("LLMProvider", "alpha")
    told.until(beta="beta.example")

    assert server.counted() == {"list llmproviders": 1, "watch llmproviders": 1}


def test_a_long_list_comes_in_pages(server, told, monkeypatch):
    monkeypatch.setattr("sidestream.sources.kubernetes.api.PAGE", 3)
    for number in range(7):
        server.apply(named(f"p{number}"))

    told.start()
    told.until(**{f"p{number}": f"p{number}.example" for number in range(7)})

    assert server.count("list", "llmproviders") == 3


@pytest.mark.parametrize("fault", ["drop", "broken_lines", "refused_watches", "empty_watches"])
def test_a_watch_that_breaks_off_goes_on_without_losing_an_event(server, told, fault):
    told.start()
    told.until()
    server.wait(lambda: watched(server))

    if fault == "drop":
        server.drop_watches()
    else:
        setattr(server.faults, fault, 1)
        server.drop_watches()
    for number in range(5):
        server.apply(named(f"p{number}"))
    server.remove("LLMProvider", "p0")
    told.until(**{f"p{number}": f"p{number}.example" for number in range(1, 5)})

    assert told.lists == 1
    assert server.count("watch", "llmproviders") > 1


def test_every_event_comes_once_though_the_watch_keeps_breaking_off(server, told):
    told.start()
    told.until()

    for number in range(20):
        server.apply(named("alpha", f"v{number}.example"))
        if number % 4 == 0:
            server.drop_watches()
    told.until(alpha="v19.example")

    assert told.lists == 1
    assert told.events.empty()


def test_bookmarks_keep_a_quiet_watch_from_falling_behind(server, told):
    told.start()
    told.until()
    server.wait(lambda: watched(server))
    server.apply(secret())  # of another resource: only a bookmark tells of its version

    with server.changed:
        server.wait(lambda: server.bookmarked >= server.version)
        server.drop_watches()
        server.forget_history()
    server.apply(named("alpha"))
    told.until(alpha="alpha.example")

    assert told.lists == 1


def test_a_watch_that_is_too_old_lists_again_and_finds_what_was_deleted(server, told):
    server.apply(named("alpha"))
    server.apply(named("beta"))
    told.start()
    told.until(alpha="alpha.example", beta="beta.example")
    server.wait(lambda: watched(server))

    server.faults.refused_watches = 1
    with server.changed:  # nothing is sent meanwhile
        server.drop_watches()
        server.remove("LLMProvider", "alpha")
        server.apply(named("gamma"))
        server.forget_history()
    told.until(beta="beta.example", gamma="gamma.example")

    assert told.lists == 2


def test_a_server_that_fails_is_asked_again(server, told, caplog):
    server.faults.errors = 3
    server.apply(named("alpha"))

    told.start()
    told.until(alpha="alpha.example")

    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3


def test_what_the_server_says_about_a_secret_is_not_repeated(server, api, caplog):
    caplog.set_level(logging.DEBUG)
    server.faults.errors = 1

    with pytest.raises(ApiError) as refused:
        api.create(SECRETS, secret())
    api.create(SECRETS, secret())
    api.get(SECRETS, "default", "keys")

    assert refused.value.status == 500
    encoded = secret()["data"]["alpha"]
    told = repr([vars(record) for record in caplog.records]) + str(refused.value)
    assert MARKER not in told
    assert encoded not in told


def test_an_object_that_changed_meanwhile_is_a_conflict(server, api):
    created = api.create(PROVIDERS, named("alpha"))
    server.apply(named("alpha", "other.example"))

    with pytest.raises(ApiError) as refused:
        api.replace(PROVIDERS, created)

    assert refused.value.is_conflict


def test_a_status_is_apart_from_the_rest(server, api):
    created = api.create(PROVIDERS, named("alpha"))

    patched = api.patch(
        PROVIDERS, ("default", "alpha"), {"status": {"x": 1}, "spec": {"host": "b"}}, subresource="status"
    )
    after = api.patch(
        PROVIDERS,
        ("default", "alpha"),
        [{"op": "replace", "path": "/spec/host", "value": "c.example"}],
        how=PatchType.JSON,
    )

    assert (patched["status"], patched["spec"]) == ({"x": 1}, created["spec"])
    assert [one["metadata"]["generation"] for one in (created, patched, after)] == [1, 1, 2]


def test_a_server_that_is_not_there_is_no_answer(server):
    server.url = "http://127.0.0.1:9"

    with pytest.raises(ApiError) as refused:
        api_of(server).get(SECRETS, "default", "keys")

    assert refused.value.status == 0


def test_an_event_that_is_nested_too_deeply_is_an_error_like_any_other():
    line = b'{"type": "ADDED", "object": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"

    with pytest.raises(ApiError, match="what is no event"):
        list(Watch(urllib3.HTTPResponse(io.BytesIO(line), preload_content=False)))
