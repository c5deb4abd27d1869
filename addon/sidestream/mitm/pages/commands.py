"""Commands for the command bar of mitmweb and of mitmproxy's console."""

import json
import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mitmproxy import command, ctx, exceptions, flow, hooks, http

from sidestream.core.explain import Explanation
from sidestream.core.showing import shown
from sidestream.core.snapshot import Backend
from sidestream.mitm.current import Current
from sidestream.mitm.exchanges import Open
from sidestream.mitm.pages import writing
from sidestream.mitm.pages.noting import PREFIX
from sidestream.mitm.pages.resending import CannotResend, Resending, Surroundings, before_of_flow, provider_named
from sidestream.mitm.pages.seen import Seen, Store, before_of
from sidestream.mitm.requests import RequestHooks

logger = logging.getLogger(__name__)

MAX_RESENT = 20
"""How many flows one command sends again: they cost money."""


@runtime_checkable
class Reloadable(Protocol):
    """A source of policies that can be looked at at once."""

    def refresh(self) -> bool:
        """Compile again if something changed. Return whether another snapshot is in force."""

    def problems(self) -> Sequence[str]:
        """Return the problems of the newest documents."""


class Noted(Protocol):
    """Where flows are taken note of."""

    store: Store

    def begin(self, flow: http.HTTPFlow, opened: Open, seen: Seen | None) -> None:
        """Take note of an exchange, and of what is known of it, if anything is."""

    def response(self, flow: http.HTTPFlow) -> None:
        """Take note of how it ended."""


class Commands:
    """The commands. Each answers with text, or says why it can't."""

    name = "sidestream-commands"

    def __init__(self, current: Current, requests: RequestHooks, noted: Noted) -> None:
        self._current = current
        self._requests = requests
        self._noted = noted

    @command.command("sidestream.explain")
    def explain(self, flows: Sequence[flow.Flow]) -> str:
        """Tell why flows went where they went: the verdict of each rule, and the shares of the backends."""
        if not flows:
            raise exceptions.CommandError("name a flow, like @focus")
        return "\n".join("\n".join(self._explained(each)) for each in flows)

    @command.command("sidestream.policy")
    def policy(self) -> str:
        """Show the policy in force and the problems of its newest documents; keys are redacted."""
        source = self._source()
        problems = source.problems() if isinstance(source, Reloadable) else []
        return json.dumps(shown(self._current.snapshot) | {"problems": list(problems)}, ensure_ascii=False, indent=2)

    @command.command("sidestream.reload")
    def reload(self) -> str:
        """Look for changes of the policy now. What does not compile changes nothing."""
        source = self._source()
        if not isinstance(source, Reloadable):
            raise exceptions.CommandError("this source of policies tells of changes by itself")
        has_changed = source.refresh()
        said = f"policy revision {self._current.snapshot.revision} is in force, {'new' if has_changed else 'as before'}"
        return "\n".join([said, *source.problems()])

    @command.command("sidestream.replay-with")
    def replay_with(self, flows: Sequence[flow.Flow], provider: str) -> str:
        """Send requests again, as the app sent them, to a provider: namespace/name, name or host."""
        sendable = [each for each in flows if isinstance(each, http.HTTPFlow) and not each.live]
        if not 0 < len(sendable) <= MAX_RESENT:
            raise exceptions.CommandError(f"name 1 to {MAX_RESENT} flows that have ended; these are {len(sendable)}")
        try:
            named = provider_named(provider, self._current.snapshot)
            resendings = [
                self._resending(each, Backend(named, named.config_for(each.metadata.get(f"{PREFIX}rule"))))
                for each in sendable
            ]
        except CannotResend as e:
            raise exceptions.CommandError(str(e)) from e
        for resending in resendings:
            self._send(resending)
        return f"sent again to {named.name}: {len(resendings)}"

    def _source(self) -> object:
        if self._current.runtime is None:
            raise exceptions.CommandError("no policy is loaded")
        return self._current.runtime.source

    def _explained(self, each: flow.Flow) -> list[str]:
        seen = self._noted.store.get(each.id)
        if seen is None or seen.explanation is None:
            return [
                f"{each.comment or each.id}: nothing is known of its decision (no policy named its host, or it is gone)"
            ]
        provider = seen.record.provider if seen.record is not None else each.metadata.get(f"{PREFIX}provider")
        return [each.comment, *writing.decision_part(seen.explanation, provider)]

    def _resending(self, original: http.HTTPFlow, backend: Backend) -> Resending:
        seen = self._noted.store.get(original.id)
        before = seen.before if seen is not None else before_of_flow(original)
        around = Surroundings(
            self._current.snapshot, self._current.settings.labels, self._requests.health, _changed, self._ended
        )
        return Resending(original, before, backend, around)

    def _send(self, resending: Resending) -> None:
        view, snapshot = resending.view, resending.opened.snapshot
        reason = f"sent again to {resending.first.backend.provider.name}, by hand: no rule was asked"
        seen = Seen(
            before_of(view, resending.before.body),
            Explanation(view.host, snapshot.revision, "forward", reason),
            resending.exchange,
        )
        self._noted.begin(resending.flow, resending.opened, seen)
        ctx.master.addons.get("view").add([resending.flow])
        self._requests.upstream().call(resending)

    def _ended(self, ended: http.HTTPFlow, opened: Open, fault: str | None) -> None:
        self._requests.record(opened, error=fault)
        self._noted.response(ended)


def _changed(changed: http.HTTPFlow) -> None:
    ctx.master.addons.trigger(hooks.UpdateHook([changed]))
