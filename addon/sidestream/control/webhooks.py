"""
The webhooks over HTTPS, on tornado, which mitmproxy brings.

`/validate` and `/inject` answer the API server; `/healthz/live` and `/healthz/ready` kubelets.
"""

import json
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from sidestream.control.admission import Known, NoReview, injected, validated
from sidestream.core.snapshot import Labels
from sidestream.inject.options import Options

logger = logging.getLogger(__name__)

PORT = 8443
MAX_BODY_BYTES = 8 * 1024 * 1024
"""How long a review may be: the API server takes objects of 3 MiB, and sends two of them."""


@dataclass(frozen=True, slots=True)
class Answering:
    """
    What the webhooks need to know.

    `options`: how pods are injected. `knows_all`: whether every policy was heard of; before, nobody can say which
    bundle a pod is to mount.
    """

    known: Known
    bundle_for: Callable[[str, Labels], str]
    options: Options
    knows_all: Callable[[], bool]
    is_ready: Callable[[], bool]
    is_alive: Callable[[], bool]


def webhooks(answering: Answering, context: ssl.SSLContext) -> HTTPServer:
    """Return a server of the webhooks, to be told where to listen."""
    routes = [
        (r"/validate", _Validate, {"answering": answering}),
        (r"/inject", _Inject, {"answering": answering}),
        (r"/healthz/(live|ready)", _Health, {"answering": answering}),
    ]
    application = Application(routes, log_function=lambda _: None)
    return HTTPServer(application, ssl_options=context, max_body_size=MAX_BODY_BYTES, idle_connection_timeout=600)


class _Answers(RequestHandler):
    def initialize(self, answering: Answering) -> None:
        """Take what a route has."""
        self.answering = answering

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Log what went wrong, and where; never with what was sent, which may hold a key."""
        if isinstance(value, HTTPError):
            return
        while tb is not None and tb.tb_next is not None:
            tb = tb.tb_next
        place = f"{tb.tb_frame.f_code.co_filename}:{tb.tb_lineno}" if tb is not None else ""
        name = typ.__name__ if typ is not None else ""
        logger.error("a webhook failed", extra={"path": self.request.path, "error": name, "place": place})

    def write_error(self, status_code: int, **_: Any) -> None:
        """Say what is wrong in one line."""
        self.set_header("Content-Type", "text/plain")
        self.finish(f"{status_code} {self._reason}\n")


class _Webhook(_Answers):
    def answer(self, review: dict[str, Any]) -> dict[str, Any]:
        """Return the review with the answer in it."""
        raise NotImplementedError

    def post(self) -> None:
        """Answer a review."""
        try:
            review = json.loads(self.request.body)
        except ValueError as e:
            raise HTTPError(400, reason="the body is no JSON") from e
        try:
            answer = self.answer(review)
        except NoReview as e:
            raise HTTPError(400, reason="the body is no AdmissionReview of admission.k8s.io/v1") from e
        response = answer["response"]
        if not response["allowed"]:
            request = review["request"]
            name = request.get("name") or request["object"]["metadata"].get("generateName")
            subject = f"{request.get('namespace')}/{name}"
            logger.info("refused", extra={"webhook": self.request.path, "object": subject})
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(answer))


class _Validate(_Webhook):
    def answer(self, review: dict[str, Any]) -> dict[str, Any]:
        return validated(review, self.answering.known)


class _Inject(_Webhook):
    def answer(self, review: dict[str, Any]) -> dict[str, Any]:
        if not self.answering.knows_all():
            raise HTTPError(503, reason="not every policy is known yet")
        return injected(review, self.answering.options, self.answering.bundle_for)


class _Health(_Answers):
    def get(self, which: str) -> None:
        """Say whether it works, or whether it is ready to."""
        good = self.answering.is_alive() and (which == "live" or self.answering.is_ready())
        self.set_status(200 if good else 503)
        self.set_header("Content-Type", "text/plain")
        self.finish("ok\n" if good else "not ready\n")
