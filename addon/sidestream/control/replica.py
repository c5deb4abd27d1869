"""One replica of the controller: the control plane, its election, its certificate and its webhooks."""

import asyncio
import contextlib
import datetime as dt
import logging
import signal
from dataclasses import dataclass, field

from tornado.netutil import bind_sockets

from sidestream.control.controlling import Controlling
from sidestream.control.electing import LEASE, Electing
from sidestream.control.serving import Certificate
from sidestream.control.webhooks import Answering, webhooks
from sidestream.inject.options import Options
from sidestream.sources.kubernetes.api import Api, ApiError

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""How often the certificate is looked at: another replica may have renewed it."""
RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """
    How a replica is run.

    `home`: the namespace of its Service and Lease. `identity`: what it calls itself, as no other does. `namespace`: the
    only one to look at, or ``""``. `drain_seconds`: how long webhooks are served after the end was asked for.
    """

    home: str
    identity: str
    namespace: str = ""
    injection: Options = field(default_factory=Options)
    drain_seconds: float = 5.0


class Replica:
    """Everything that a replica is made of, not yet started."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self.settings = settings
        self.control = Controlling(api, namespace=settings.namespace)
        self.election = Electing(api, (settings.home, LEASE), settings.identity, self._lead)
        self.certificate = Certificate(api, settings.home)
        self.ending = False
        answering = Answering(
            known=self.control.known,
            bundle_for=self.control.bundle_for,
            options=settings.injection,
            knows_all=lambda: self.control.ready,
            is_ready=lambda: self.control.ready and not self.ending,
            is_alive=lambda: self.alive,
        )
        self.webhooks = webhooks(answering, self.certificate.context)

    @property
    def alive(self) -> bool:
        """Whether all that it started still works."""
        return self.control.alive and self.election.alive

    def _lead(self, leads: bool) -> None:  # noqa: FBT001 what an election tells
        self.control.lead(leads=leads, still=lambda: self.election.leads)


async def run(replica: Replica, port: int, host: str | None = None) -> bool:
    """
    Run `replica` until SIGTERM or SIGINT; return whether that was why it ended.

    Raises:
        OSError: the webhooks can't listen there.
    """
    sockets = bind_sockets(port, host)
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    replica.control.start()
    replica.election.start()
    certifying = asyncio.create_task(_certify(replica))
    try:
        # That task ends by an error alone, raised below: who serves on would, in time, serve what has expired.
        while not (replica.certificate.is_served or ending.is_set() or certifying.done()):
            await _wait(ending, 0.05)
        if replica.certificate.is_served:
            replica.webhooks.add_sockets(sockets)
            logger.info("webhooks are served", extra={"port": sockets[0].getsockname()[1]})
        while not (ending.is_set() or certifying.done()) and replica.alive:
            await _wait(ending, 1)
        await _end(replica)
    finally:
        certifying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await certifying
    return ending.is_set()


async def _certify(replica: Replica) -> None:
    while True:
        pause = REFRESH_SECONDS
        try:
            await asyncio.to_thread(replica.certificate.refresh, dt.datetime.now(dt.UTC))
        except ApiError as e:
            logger.warning("the certificate could not be looked at; trying again", extra={"error": str(e)})
            pause = RETRY_SECONDS
        await asyncio.sleep(pause)


async def _end(replica: Replica) -> None:
    replica.ending = True
    await asyncio.to_thread(replica.election.stop)  # first, so that the next leader starts at once
    if replica.certificate.is_served:
        # Until the API server has heard that nobody is to be asked here.
        await asyncio.sleep(replica.settings.drain_seconds)
        replica.webhooks.stop()
        await replica.webhooks.close_all_connections()
    await asyncio.to_thread(replica.control.stop)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
