"""
Calls to the Kubernetes API, on the official client's connection and credentials.

Objects go as the JSON they are: the client's models would cost more time than all the rest. What
the API server says about a Secret is not repeated, since it may quote what was sent.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import urllib3
from kubernetes import client, config

from sidestream.core.errors import cut
from sidestream.sources.kubernetes.objects import LEASES, SECRETS, Object, Resource, key_of

PAGE = 500
"""How many objects a page of a list has, as client-go asks for."""
TIMEOUTS_SECONDS = (5.0, 30.0)
"""How long a call may take to connect, and until the next bytes of its answer."""
LEASE_TIMEOUTS_SECONDS = (2.0, 3.0)
"""The same for leases, which are worth nothing late."""
WATCH_SECONDS = 300
"""How long a watch is asked to last."""
WATCH_TIMEOUTS_SECONDS = (5.0, WATCH_SECONDS + 30.0)


class PatchType(StrEnum):
    """The content types of patches."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"


class ApiError(Exception):
    """A call that failed. `status`: that of the answer, 0 when there was none. `reason`: the API's word for it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(message)

    @property
    def is_gone(self) -> bool:
        """Whether a watch can't go on from where it was, since the server no longer knows what came after."""
        return self.status == 410

    @property
    def is_conflict(self) -> bool:
        """Whether someone else was faster: the object changed, or is there already."""
        return self.status == 409

    @property
    def is_missing(self) -> bool:
        """Whether the object is not there."""
        return self.status == 404

    @property
    def is_final(self) -> bool:
        """Whether the same call will fail again until a person acts."""
        return 400 <= self.status < 500 and self.status not in (408, 409, 429)


class Api:
    """The API of one cluster. May be used by several threads."""

    def __init__(self, configuration: client.Configuration) -> None:
        # On the level DEBUG the client would log what Secrets hold.
        logging.getLogger("kubernetes.client.rest").setLevel(logging.INFO)
        configuration.retries = False  # ours know what may be repeated
        self._client = client.ApiClient(configuration)
        self._host = configuration.host

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return an object."""
        return self._call(_Call("GET", resource, resource.path(namespace, name)))

    def list(
        self, resource: Resource, namespace: str = "", *, fields: str = "", labels: str = ""
    ) -> tuple[list[Object], str]:
        """Return all objects of a resource, in `namespace` or everywhere, and the resourceVersion they are of."""
        items: list[Object] = []
        query = _query(limit=str(PAGE), fieldSelector=fields, labelSelector=labels)
        while True:
            page = self._call(_Call("GET", resource, resource.path(namespace), query))
            # Items of a list leave out what they all share.
            shared = {"apiVersion": resource.api_version, "kind": resource.kind}
            items += [shared | item for item in page.get("items") or []]
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion") or "")
            query["continue"] = metadata["continue"]

    def watch(self, resource: Resource, namespace: str, version: str, *, fields: str = "", labels: str = "") -> "Watch":
        """Watch what happens to a resource after `version`."""
        query = _query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=version,
            timeoutSeconds=str(WATCH_SECONDS),
            fieldSelector=fields,
            labelSelector=labels,
        )
        return Watch(self._send(_Call("GET", resource, resource.path(namespace), query), streamed=True))

    def create(self, resource: Resource, content: Object) -> Object:
        """Create an object."""
        return self._call(_Call("POST", resource, resource.path(key_of(content)[0]), body=content))

    def replace(self, resource: Resource, content: Object) -> Object:
        """Replace an object; a conflict when it has another resourceVersion than `content`."""
        return self._call(_Call("PUT", resource, resource.path(*key_of(content)), body=content))

    def patch(
        self,
        resource: Resource,
        key: tuple[str, str],
        body: object,
        *,
        subresource: str = "",
        how: PatchType = PatchType.MERGE,
    ) -> Object:
        """Change a part of an object."""
        return self._call(_Call("PATCH", resource, resource.path(*key, subresource), body=body, content_type=how))

    def delete(self, resource: Resource, namespace: str, name: str, *, version: str = "") -> None:
        """Delete an object; with `version`, only if it is still the one that has it."""
        body = {"preconditions": {"resourceVersion": version}} if version else None
        self._call(_Call("DELETE", resource, resource.path(namespace, name), body=body))

    def _call(self, call: "_Call") -> dict[str, Any]:
        answer = self._send(call)
        try:
            content = json.loads(answer.data)
        except (ValueError, RecursionError) as e:
            raise ApiError(answer.status, "NotJson", f"{call}: the answer is no JSON") from e
        assert isinstance(content, dict), "the API answers with objects"
        return content

    def _send(self, call: "_Call", *, streamed: bool = False) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "Content-Type": call.content_type}
        # Asked anew for each call: a service account's token is renewed from time to time.
        credentials = self._client.configuration.auth_settings()
        self._client.update_params_for_auth(headers, [], list(credentials))
        try:
            answer: urllib3.BaseHTTPResponse = self._client.rest_client.pool_manager.request(
                call.method,
                self._host + call.path,
                fields=dict(call.query) or None,
                body=None if call.body is None else json.dumps(call.body).encode(),
                headers=headers,
                preload_content=not streamed,
                timeout=urllib3.Timeout(*_timeouts(call.resource, streamed=streamed)),
            )
        except urllib3.exceptions.HTTPError as e:
            raise ApiError(0, type(e).__name__, f"{call}: {cut(str(e))}") from None
        if not 200 <= answer.status < 300:
            text = answer.read() if streamed else answer.data
            raise _refused(answer.status, text, str(call), tell=call.resource != SECRETS)
        return answer


@dataclass(frozen=True, slots=True)
class _Call:
    """One call: what is asked of which resource."""

    method: str
    resource: Resource
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: object = field(default=None, repr=False)
    content_type: str = "application/json"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Watch:
    """A watch that goes on: iterate over its events. `close` ends it from any thread."""

    def __init__(self, answer: urllib3.BaseHTTPResponse) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[tuple[str, Object]]:
        """
        Yield the type and the object of each event until the watch ends.

        Raises:
            ApiError: the server ended it for a reason, or the connection broke.
        """
        rest = b""
        try:
            for piece in self._answer.stream(amt=None, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _refused(int(event["object"].get("code") or 0), json.dumps(event["object"]), "watch")
                    yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise ApiError(0, type(e).__name__, f"the watch broke off: {cut(str(e))}") from None
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise ApiError(0, "NotJson", "the watch sent what is no event") from None
        finally:
            self._answer.close()
            self._answer.release_conn()

    def close(self) -> None:
        """End the watch, whoever is waiting for its next event."""
        with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has ended
            self._answer.shutdown()


def connected(kubeconfig: str | None = None) -> Api:
    """
    Return the API of the cluster: that of `kubeconfig`, else of the pod this runs in, else of the usual kubeconfig.

    Raises:
        ApiError: no cluster is configured.
    """
    configuration = client.Configuration()
    try:
        if kubeconfig is not None:
            config.load_kube_config(kubeconfig, client_configuration=configuration)
        else:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                config.load_kube_config(client_configuration=configuration)
    except config.ConfigException as e:
        raise ApiError(0, "NoCluster", f"no cluster is configured: {cut(str(e))}") from e
    return Api(configuration)


def own_namespace(default: str = "default") -> str:
    """Return the namespace of the pod that this runs in."""
    try:
        with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="utf-8") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return default


def _refused(status: int, text: bytes | str, doing: str, *, tell: bool = True) -> ApiError:
    try:
        said = json.loads(text)
        reason, message = str(said.get("reason") or ""), str(said.get("message") or "")
    except (ValueError, AttributeError):
        reason, message = "", ""
    told = f": {cut(message)}" if tell and message else ""
    return ApiError(status, reason, f"{doing}: {status} {reason}{told}")


def _timeouts(resource: Resource, *, streamed: bool) -> tuple[float, float]:
    if streamed:
        return WATCH_TIMEOUTS_SECONDS
    return LEASE_TIMEOUTS_SECONDS if resource == LEASES else TIMEOUTS_SECONDS


def _query(**terms: str) -> dict[str, str]:
    return {name: value for name, value in terms.items() if value}
