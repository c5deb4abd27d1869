"""
Keeping the webhooks' certificate good: in its Secret, in the API server's configuration, in our TLS context.

Any replica may renew it; the API server's versions decide who was first. A certificate is served only
once the configurations trust its CA.
"""

import base64
import datetime as dt
import logging
import os
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidestream.control.certificates import Serving, parse_serving, renewed
from sidestream.sources.kubernetes.api import Api, ApiError
from sidestream.sources.kubernetes.objects import MUTATING, SECRETS, VALIDATING, Key, Object, Resource

logger = logging.getLogger(__name__)

SERVICE = "sidestream-controller"
TLS_SECRET = "sidestream-controller-tls"  # noqa: S105 the name of a Secret
CONFIGURATION = "sidestream-controller"
"""The name of both webhook configurations."""

MAX_TRIES = 5
"""How often it is tried again when another replica was faster."""


class Certificate:
    """The certificate of the webhooks, and the TLS context that serves it. `namespace`: that of the Service."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._secret: Key = (namespace, TLS_SECRET)
        self._names = [f"{SERVICE}.{namespace}.svc", f"{SERVICE}.{namespace}.svc.cluster.local"]
        self._served: Serving | None = None
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    @property
    def is_served(self) -> bool:
        """Whether there is a certificate to serve."""
        return self._served is not None

    def refresh(self, now: dt.datetime) -> None:
        """
        Renew what is old, tell the API server whom to trust, and serve what is new.

        Raises:
            ApiError: the API can't be asked; what was served still is.
        """
        serving = self._current(now)
        for resource in (MUTATING, VALIDATING):
            self._trust(resource, serving)
        if serving != self._served:
            _load(self.context, serving)
            self._served = serving
            logger.info("certificate loaded", extra={"names": self._names})

    def _current(self, now: dt.datetime) -> Serving:
        for left in reversed(range(MAX_TRIES)):
            found = self._found()
            before = parse_serving(found) if found is not None else None
            serving = renewed(before, self._names, now)
            if serving is None:
                assert before is not None, "only what is there can be good"
                return before
            try:
                self._write(found, serving)
                return serving
            except ApiError as e:
                if not e.is_conflict or not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _found(self) -> Object | None:
        try:
            return self._api.get(SECRETS, *self._secret)
        except ApiError as e:
            if e.is_missing:
                return None
            raise

    def _write(self, found: Object | None, serving: Serving) -> None:
        if found is not None:
            self._api.replace(SECRETS, {**found, "data": serving.data()})
            return
        namespace, name = self._secret
        metadata: dict[str, Any] = {"namespace": namespace, "name": name}
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata}
        self._api.create(SECRETS, secret | {"data": serving.data()})

    def _trust(self, resource: Resource, serving: Serving) -> None:
        bundle = base64.b64encode(serving.ca_bundle).decode()
        for left in reversed(range(MAX_TRIES)):
            try:
                found = self._api.get(resource, "", CONFIGURATION)
                trusting = _trusting(found, bundle)
                if trusting != found:
                    self._api.replace(resource, trusting)
                return
            except ApiError as e:
                if e.is_missing:
                    return  # whoever installs without webhooks has none
                if not e.is_conflict or not left:
                    raise


def _trusting(configuration: Object, bundle: str) -> Object:
    hooks: Sequence[dict[str, Any]] = configuration.get("webhooks") or []
    trusting = [hook | {"clientConfig": hook["clientConfig"] | {"caBundle": bundle}} for hook in hooks]
    return {**configuration, "webhooks": trusting} if trusting else configuration


def _load(context: ssl.SSLContext, serving: Serving) -> None:
    """Serve `serving` on connections from now on."""
    content = serving.key + serving.certificate
    if hasattr(os, "memfd_create"):
        # OpenSSL reads files only, and the key is to be in none that stays.
        descriptor = os.memfd_create("certificate")
        try:
            os.write(descriptor, content)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.pem"
        path.touch(mode=0o600)
        path.write_bytes(content)
        context.load_cert_chain(path)
