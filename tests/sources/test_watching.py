import asyncio
import contextlib
import logging

import pytest

from sidestream.core.secret import Secret
from sidestream.core.snapshot import Provider
from sidestream.policy.problems import PolicyError
from sidestream.sources.folder import Folder
from sidestream.sources.watching import PolicyWatch, Status
from tests.policy.written import config, provider, route, together

PICKED_UP_SECONDS = 30.0
"""How long to wait for a change to be in force. It takes half a second, unless the machine has much else to do."""


@pytest.fixture
def policy(tmp_path):
    """The only file of a folder: a good policy."""
    path = tmp_path / "policy.yaml"
    path.write_text(provider("host: a.example"))
    return path


def watch(path, labels=None, **environment: str) -> PolicyWatch:
    return PolicyWatch(Folder(path, environment), labels or {})


@contextlib.asynccontextmanager
async def running(watched: PolicyWatch, on_change=None):
    task = asyncio.create_task(watched.run(on_change))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def wait_until(look) -> None:
    async with asyncio.timeout(PICKED_UP_SECONDS):
        while not look():  # noqa: ASYNC110 a watch has no event for "nothing was in force"
            await asyncio.sleep(0.01)


def test_the_policy_is_in_force_from_the_start(policy, caplog):
    caplog.set_level(logging.INFO)

    watched = watch(policy.parent)

    assert watched.snapshot.governs("a.example")
    assert watched.status == Status()
    (record,) = caplog.records
    assert (record.message, record.revision, record.hosts) == (
        "policy loaded",
        watched.snapshot.revision,
        ["a.example"],
    )


def test_a_policy_that_does_not_compile_is_refused_at_the_start_with_all_problems(policy):
    policy.write_text(together(provider("host: 7"), provider("host: a.example\npath: v1", name="beta")))

    with pytest.raises(PolicyError) as raised:
        watch(policy.parent)

    assert [problem.field for problem in raised.value.problems] == ["spec.host", "spec.path"]


def test_warnings_of_the_start_are_logged_and_kept(policy, caplog):
    policy.write_text(config("apiKey: sk-1"))

    watched = watch(policy.parent)

    assert len(watched.status.problems) == 1
    assert [record.levelname for record in caplog.records if "is a literal" in record.message] == ["WARNING"]


def test_without_a_change_nothing_is_compiled(policy):
    watched = watch(policy.parent)
    before = watched.snapshot

    assert not watched.refresh()
    assert watched.snapshot is before


def test_a_change_is_in_force_after_a_refresh(policy):
    watched = watch(policy.parent)

    policy.write_text(provider("host: changed.example"))

    assert watched.refresh()
    assert sorted(watched.snapshot.hosts) == ["changed.example"]
    assert not watched.refresh()


def test_the_last_good_policy_stays_while_documents_are_broken(policy, caplog):
    caplog.set_level(logging.INFO)
    watched = watch(policy.parent)
    good = watched.snapshot

    policy.write_text(together(provider("host: 7"), provider("host: b.example\npath: v1", name="beta")))
    assert not watched.refresh()

    assert watched.snapshot is good
    assert watched.status.failures == 1
    assert [problem.field for problem in watched.status.problems] == ["spec.host", "spec.path"]
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [str(problem) for problem in watched.status.problems]
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert error.message == "the policy does not compile; the last good one stays in force"
    assert (error.revision, error.problems) == (good.revision, 2)


def test_a_failure_is_counted_once_and_mended_by_the_next_change(policy):
    watched = watch(policy.parent)

    policy.write_text("a: [")
    assert [watched.refresh(), watched.refresh()] == [False, False]
    assert watched.status.failures == 1

    policy.write_text("not: closed: either")
    assert not watched.refresh()
    assert watched.status.failures == 2

    policy.write_text(provider("host: mended.example"))
    assert watched.refresh()
    assert watched.status == Status(failures=2)
    assert sorted(watched.snapshot.hosts) == ["mended.example"]


def test_a_policy_that_goes_back_to_what_it_was_is_mended(policy):
    watched = watch(policy.parent)
    good = watched.snapshot
    text = policy.read_text()

    policy.write_text("a: [")
    watched.refresh()
    policy.write_text(text)

    assert watched.refresh()
    assert watched.snapshot.revision == good.revision
    assert watched.status.problems == ()


def test_a_document_that_goes_is_no_longer_in_force(policy):
    other = policy.with_name("other.yaml")
    other.write_text(provider("host: b.example", name="beta"))
    watched = watch(policy.parent)

    other.unlink()

    assert watched.refresh()
    assert sorted(watched.snapshot.hosts) == ["a.example"]


def test_a_folder_that_loses_all_documents_governs_nothing_and_says_so(policy):
    watched = watch(policy.parent)

    policy.unlink()

    assert watched.refresh()
    assert dict(watched.snapshot.hosts) == {}
    assert "nothing is governed" in str(watched.status.problems[0])


def test_a_folder_that_goes_leaves_the_last_good_policy(policy):
    folder = policy.parent / "folder"
    folder.mkdir()
    moved = policy.rename(folder / "policy.yaml")
    watched = watch(folder)

    moved.unlink()
    folder.rmdir()

    assert not watched.refresh()
    assert watched.snapshot.governs("a.example")
    assert "no such file or folder" in str(watched.status.problems[0])


def test_a_key_file_that_changes_takes_effect(policy):
    key = policy.with_name("key")
    key.write_text("sk-1")
    policy.write_text(config("apiKeyFrom: {file: key}"))
    watched = watch(policy.parent)
    before = watched.snapshot

    key.write_text("sk-rotated")

    assert watched.refresh()
    assert key_of(before) == Secret("sk-1")
    assert key_of(watched.snapshot) == Secret("sk-rotated")
    assert watched.snapshot.revision == before.revision


def test_a_key_file_that_goes_leaves_the_last_good_key(policy):
    key = policy.with_name("key")
    key.write_text("sk-1")
    policy.write_text(config("apiKeyFrom: {file: key}"))
    watched = watch(policy.parent)

    key.unlink()
    assert not watched.refresh()
    assert key_of(watched.snapshot) == Secret("sk-1")

    key.write_text("sk-2")
    assert watched.refresh()
    assert key_of(watched.snapshot) == Secret("sk-2")


def key_of(snapshot) -> Secret | None:
    found = snapshot.hosts["api.alpha.example"]
    assert isinstance(found, Provider)
    return found.config.key


def test_the_policy_is_that_for_the_workload(policy):
    chat = route("host: chat\nrules: [{backendRefs: [{providerHost: a.example}]}]")
    policy.write_text(together(provider("host: a.example\nworkloadSelector: {labels: {app: sleep}}"), chat))

    awake, asleep = watch(policy.parent, {"app": "curl"}), watch(policy.parent, {"app": "sleep"})

    assert sorted(awake.snapshot.hosts) == []
    assert awake.status.problems == ()
    assert {"a.example", "chat"} <= set(asleep.snapshot.hosts)


async def test_a_change_is_picked_up_while_traffic_runs(policy):
    watched = watch(policy.parent)
    seen = []

    async with running(watched, seen.append):
        policy.write_text(provider("host: changed.example"))
        await wait_until(lambda: seen)

    assert seen == [watched.snapshot]
    assert watched.snapshot.governs("changed.example")


async def test_a_broken_change_is_picked_up_and_a_mended_one_as_well(policy):
    watched = watch(policy.parent)
    seen = []

    async with running(watched, seen.append):
        policy.write_text("a: [")
        await wait_until(lambda: watched.status.failures)
        assert seen == []
        assert watched.snapshot.governs("a.example")

        policy.write_text(provider("host: mended.example"))
        await wait_until(lambda: seen)

    assert watched.snapshot.governs("mended.example")


async def test_a_watch_without_listeners_runs(policy):
    watched = watch(policy.parent)

    async with running(watched):
        policy.write_text(provider("host: changed.example"))
        await wait_until(lambda: watched.snapshot.governs("changed.example"))


async def test_a_look_that_fails_is_logged_and_the_next_one_happens(policy, caplog):
    class Failing(Folder):
        failed = 0

        def changed_since(self, reading):
            if not self.failed:
                self.failed += 1
                raise RuntimeError("the disk is gone")
            return super().changed_since(reading)

    watched = PolicyWatch(Failing(policy.parent, {}), {})

    async with running(watched) as task:
        policy.write_text(provider("host: changed.example"))
        await wait_until(lambda: watched.snapshot.governs("changed.example"))
        assert not task.done()

    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.message == "the policy could not be looked at; the last good one stays in force"


async def test_a_watch_ends_when_it_is_cancelled(policy):
    async with running(watch(policy.parent)) as task:
        await asyncio.sleep(0)

    assert task.cancelled()


def test_problems_of_the_newest_documents_are_told_as_a_person_reads_them(policy):
    watched = watch(policy)
    policy.write_text(provider("host: [1]"))

    changed = watched.refresh()

    assert not changed
    assert any(str(policy) in problem and "host" in problem for problem in watched.problems())
