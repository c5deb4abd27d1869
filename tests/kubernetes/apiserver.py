"""
A stand-in for the Kubernetes API server, that speaks its HTTP: real sockets, chunked watches, resourceVersions.

It has get, list (in pages, with label and field selectors), watch (with bookmarks, and 410 Gone once its history is
cut off), create, update, delete, merge and JSON patch, and the status subresource; conflicts (409); generations; and
admission webhooks over TLS, with JSON patches applied. It counts the calls it gets and misbehaves on demand.

What it can't show: whether a real server accepts our objects. It knows no schemas (neither built-in nor those of
CustomResourceDefinitions: no pruning, defaults or CEL), no RBAC, no API priority and fairness, no strategic merge or
server-side apply, no finalizers, owners or namespaces' life; its resourceVersions are numbers of one counter, its lists
are always consistent, and it is one server, where a real cluster has several with caches that lag.
"""

import base64
import contextlib
import copy
import itertools
import json
import re
import ssl
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BOOKMARK_SECONDS = 0.05
"""How often a watch that wants bookmarks gets one; a real server sends one a minute."""

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?"
)

KINDS = {
    "llmproviders": "LLMProvider",
    "llmroutes": "LLMRoute",
    "namespaces": "Namespace",
    "secrets": "Secret",
    "pods": "Pod",
    "leases": "Lease",
    "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
    "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
}
WITH_STATUS = {"llmproviders", "llmroutes", "pods"}


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason

    @property
    def status(self) -> dict:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": self.reason,
            "message": str(self),
            "code": self.code,
        }


@dataclass(frozen=True)
class Call:
    """A call that came: `verb` as RBAC has it, and `what` plural or plural/subresource."""

    verb: str
    what: str
    namespace: str
    name: str
    body: object = field(default=None, compare=False, repr=False)


@dataclass
class Faults:
    """What goes wrong. Counts are used up."""

    conflicts: int = 0  # updates and patches that someone else was faster than
    errors: int = 0  # calls answered with 500, the body of the request in the message
    broken_lines: int = 0  # events that break off in mid-line, with the connection
    refused_watches: int = 0  # watches whose connection is closed at once
    empty_watches: int = 0  # watches that end at once, as if their time were over


class ApiServer:
    """The stand-in. Use it as `with running() as server`."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[Call] = []
        self.faults = Faults()
        self.changed = threading.Condition()
        self.tie_webhooks_to: str | None = None  # where services of webhooks are, as https://HOST:PORT
        self._objects: dict[str, dict[tuple[str, str], dict]] = {}
        self._history: deque[tuple[int, str, str, dict]] = deque()  # version, plural, type, object
        self._version = itertools.count(1)
        self.version = 0
        self.bookmarked = 0  # the version of the last bookmark that went out
        self._oldest = 0
        self._watches = 0
        self._cut = 0  # watches that started before this one are to break off

    # --- what a test does ------------------------------------------------------------------------

    def apply(self, document: dict) -> dict:
        """Create an object, or replace it, as some other client would."""
        plural = next(plural for plural, kind in KINDS.items() if kind == document["kind"])
        document = copy.deepcopy(document)
        metadata = {name: value for name, value in document["metadata"].items() if name != "resourceVersion"}
        document["metadata"] = metadata
        with self.changed:
            known = self._objects.get(plural, {}).get((metadata.get("namespace", ""), metadata["name"]))
            if known is None:
                return self.create(plural, metadata.get("namespace", ""), document)
            return self.update(plural, {**document, "metadata": {**known["metadata"], **metadata}}, "")

    def remove(self, kind: str, name: str, namespace: str = "default") -> None:
        self.delete(next(plural for plural, one in KINDS.items() if one == kind), namespace, name)

    def get(self, kind: str, name: str, namespace: str = "default") -> dict | None:
        plural = next(plural for plural, one in KINDS.items() if one == kind)
        with self.changed:
            return copy.deepcopy(self._objects.get(plural, {}).get((namespace, name)))

    def files(self, name: str = "sidestream-policy", namespace: str = "default") -> dict[str, bytes]:
        """What is in a Secret, decoded."""
        found = self.get("Secret", name, namespace) or {}
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}

    def condition(self, kind: str, name: str, type_: str, namespace: str = "default") -> dict:
        status = (self.get(kind, name, namespace) or {}).get("status") or {}
        return next((one for one in status.get("conditions", ()) if one["type"] == type_), {})

    def count(self, verb: str, what: str) -> int:
        return sum(1 for call in list(self.calls) if (call.verb, call.what) == (verb, what))

    def counted(self) -> Counter:
        return Counter(f"{call.verb} {call.what}" for call in list(self.calls))

    def wait(self, condition: Callable[[], object], seconds: float = 30.0) -> object:
        """Wait until `condition` gives something."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):  # without the lock: it may ask the server
            left = deadline - time.monotonic()
            assert left > 0, f"it did not come to that; calls: {self.counted()}"
            with self.changed:
                self.changed.wait(min(left, 0.02))  # what is waited for may be no change of ours
        return found

    def drop_watches(self) -> None:
        """Break off all watches."""
        with self.changed:
            self._cut = self._watches
            self.changed.notify_all()

    def forget_history(self) -> None:
        """Keep no event: who has not seen all that happened is told 410 Gone."""
        with self.changed:
            self._history.clear()
            self._oldest = self.version

    # --- the API ---------------------------------------------------------------------------------

    def create(self, plural: str, namespace: str, content: dict) -> dict:
        with self.changed:
            objects = self._objects.setdefault(plural, {})
            metadata = content["metadata"] = dict(content.get("metadata") or {})
            if namespace:
                metadata["namespace"] = namespace
            key = (namespace, metadata["name"])
            if key in objects:
                raise Refused(409, "AlreadyExists", f"{plural} {metadata['name']!r} already exists")
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1}
            if plural in WITH_STATUS and plural != "pods":
                content.pop("status", None)
            return self._store(plural, "ADDED", content)

    def update(self, plural: str, content: dict, subresource: str, version: str = "") -> dict:
        with self.changed:
            known = self._known(plural, content["metadata"].get("namespace", ""), content["metadata"]["name"])
            version = version or content["metadata"].get("resourceVersion", "")
            if version and version != known["metadata"]["resourceVersion"]:
                raise Refused(409, "Conflict", "the object has been modified; please apply your changes to the latest")
            server_set = ("uid", "creationTimestamp", "generation", "resourceVersion")
            metadata = {**content["metadata"], **{n: known["metadata"][n] for n in server_set}}
            if subresource == "status":
                new = {**known, "status": content.get("status")}
            else:
                new = {**content, "apiVersion": known["apiVersion"], "kind": known["kind"], "metadata": metadata}
                if plural in WITH_STATUS:
                    new.pop("status", None)
                    if "status" in known:
                        new["status"] = known["status"]
                if new.get("spec") != known.get("spec"):
                    new["metadata"] = {**metadata, "generation": metadata["generation"] + 1}
            if new == known:
                return copy.deepcopy(known)  # no change is no new version, as with a real one
            return self._store(plural, "MODIFIED", copy.deepcopy(new))

    def delete(self, plural: str, namespace: str, name: str) -> dict:
        with self.changed:
            known = self._known(plural, namespace, name)
            del self._objects[plural][namespace, name]
            return self._note(plural, "DELETED", copy.deepcopy(known))

    def patch(self, plural: str, key: tuple[str, str], subresource: str, body: object, content_type: str) -> dict:
        with self.changed:
            known = copy.deepcopy(self._known(plural, *key))
            if content_type == "application/merge-patch+json":
                new = merged(known, body)
            elif content_type == "application/json-patch+json":
                new = json_patched(known, body)
            else:
                raise Refused(415, "UnsupportedMediaType", f"{content_type} is not spoken here")
            asked = body.get("metadata", {}).get("resourceVersion", "") if isinstance(body, dict) else ""
            return self.update(plural, new, subresource, asked)

    def listed(self, plural: str, namespace: str, query: dict[str, str]) -> dict:
        with self.changed:
            items = self._matching(plural, namespace, query)
            start, limit = int(query.get("continue") or 0), int(query.get("limit") or 0) or len(items) or 1
            page = items[start : start + limit]
            metadata = {"resourceVersion": str(self.version)}
            if start + limit < len(items):
                metadata["continue"] = str(start + limit)
            return {"kind": f"{KINDS[plural]}List", "apiVersion": "v1", "metadata": metadata, "items": page}

    def watched(self, plural: str, namespace: str, query: dict[str, str]) -> Iterator[dict | None]:
        """Yield events as they come, ``None`` when the connection is to be broken off in mid-line."""
        seen = int(query.get("resourceVersion") or 0)
        end = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
        bookmarks = query.get("allowWatchBookmarks") == "true"
        bookmark_at = time.monotonic() + BOOKMARK_SECONDS
        with self.changed:
            self._watches += 1
            mine = self._watches
            if seen < self._oldest:
                raise Refused(410, "Expired", f"too old resource version: {seen} ({self._oldest})")
        while time.monotonic() < end:
            with self.changed:
                if mine <= self._cut:
                    return
                events = [entry for entry in self._history if entry[0] > seen]
                expired = seen < self._oldest and not events
                if not events and not expired and (not bookmarks or time.monotonic() < bookmark_at):
                    self.changed.wait(BOOKMARK_SECONDS if bookmarks else 1)
                    continue
                latest = self.version
            if expired:
                yield {"type": "ERROR", "object": Refused(410, "Expired", "too old resource version").status}
                return
            for version, of, type_, content in events:
                seen = version
                if of == plural and _matches(content, namespace, query):
                    if self._use_up("broken_lines"):
                        yield None
                        return
                    yield {"type": type_, "object": content}
            if bookmarks and time.monotonic() >= bookmark_at:
                bookmark_at = time.monotonic() + BOOKMARK_SECONDS
                seen = self.bookmarked = max(seen, latest)
                yield {
                    "type": "BOOKMARK",
                    "object": {"kind": KINDS[plural], "apiVersion": "v1", "metadata": {"resourceVersion": str(seen)}},
                }

    def admitted(self, operation: str, plural: str, content: dict, old: dict | None) -> dict:
        """Ask the webhooks that are registered, mutating ones first, and return what is left of `content`."""
        for of in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
            with self.changed:
                hooks = [hook for one in self._objects.get(of, {}).values() for hook in one.get("webhooks", ())]
            for hook in hooks:
                rules = hook.get("rules", ())
                if any(plural in rule["resources"] and operation in rule["operations"] for rule in rules):
                    content = self._ask(hook, operation, plural, content, old)
        return content

    def _ask(self, hook: dict, operation: str, plural: str, content: dict, old: dict | None) -> dict:
        request = {
            "uid": str(uuid.uuid4()),
            "kind": {"group": "", "version": "v1", "kind": KINDS[plural]},
            "resource": {"group": "", "version": "v1", "resource": plural},
            "namespace": content["metadata"].get("namespace", ""),
            "name": content["metadata"].get("name", ""),
            "operation": operation,
            "userInfo": {"username": "someone"},
            "object": content,
            "oldObject": old,
            "dryRun": False,
        }
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        service, pem = hook["clientConfig"]["service"], base64.b64decode(hook["clientConfig"].get("caBundle") or "")
        response = asked(self.tie_webhooks_to, service, pem.decode(), review)
        assert (response["apiVersion"], response["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        answer = response["response"]
        assert answer["uid"] == request["uid"]
        if not answer["allowed"]:
            message = f"admission webhook {hook['name']!r} denied the request: {answer['status']['message']}"
            raise Refused(answer["status"].get("code", 403), "Forbidden", message)
        if "patch" in answer:
            assert answer["patchType"] == "JSONPatch"
            return json_patched(content, json.loads(base64.b64decode(answer["patch"])))
        return content

    def _matching(self, plural: str, namespace: str, query: dict[str, str]) -> list[dict]:
        objects = sorted(self._objects.get(plural, {}).items())
        return [copy.deepcopy(content) for _, content in objects if _matches(content, namespace, query)]

    def _known(self, plural: str, namespace: str, name: str) -> dict:
        known = self._objects.get(plural, {}).get((namespace, name))
        if known is None:
            raise Refused(404, "NotFound", f"{plural} {name!r} not found")
        return known

    def _store(self, plural: str, type_: str, content: dict) -> dict:
        key = (content["metadata"].get("namespace", ""), content["metadata"]["name"])
        stored = self._note(plural, type_, content)
        self._objects.setdefault(plural, {})[key] = stored
        return copy.deepcopy(stored)

    def _note(self, plural: str, type_: str, content: dict) -> dict:
        self.version = next(self._version)
        content["metadata"] = {**content["metadata"], "resourceVersion": str(self.version)}
        self._history.append((self.version, plural, type_, content))
        self.changed.notify_all()
        return content

    def _use_up(self, fault: str) -> bool:
        with self.changed:
            left = getattr(self.faults, fault)
            setattr(self.faults, fault, max(0, left - 1))
            return left > 0


@contextlib.contextmanager
def running() -> Iterator[ApiServer]:
    """Run a stand-in on loopback."""
    server = ApiServer()

    class OfThis(_Speaking):
        api = server

    http = _Server(("127.0.0.1", 0), OfThis)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.stopping.set()
        server.drop_watches()
        http.shutdown()
        thread.join()
        http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.stopping = threading.Event()

    def handle_error(self, request, client_address) -> None:
        pass  # a client that left


class _Speaking(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("get")

    def do_POST(self) -> None:
        self._answer("create")

    def do_PUT(self) -> None:
        self._answer("update")

    def do_PATCH(self) -> None:
        self._answer("patch")

    def do_DELETE(self) -> None:
        self._answer("delete")

    def _answer(self, verb: str) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        place = _PATH.fullmatch(url.path)
        if place is None or place["plural"] not in KINDS:
            self._send(404, Refused(404, "NotFound", f"{url.path} is nothing here").status)
            return
        try:
            if verb == "get" and not place["name"]:
                verb = "watch" if query.get("watch") == "true" else "list"
            body = json.loads(text) if text else None
            what = "/".join(part for part in (place["plural"], place["subresource"]) if part)
            name = place["name"] or ((body or {}).get("metadata", {}).get("name", "") if verb == "create" else "")
            with self.api.changed:
                self.api.calls.append(Call(verb, what, place["namespace"] or "", name, body))
            if verb == "watch":
                self._watch(place, query)
            else:
                self._send(201 if verb == "create" else 200, self._done(verb, place, query, body))
        except Refused as e:
            self._send(e.code, e.status)

    def _done(self, verb: str, place: re.Match, query: dict, body) -> dict:
        api, plural, namespace, name = self.api, place["plural"], place["namespace"] or "", place["name"]
        subresource = place["subresource"] or ""
        if api._use_up("errors"):
            raise Refused(500, "InternalError", f"something is wrong with {json.dumps(body)}")
        if verb in ("update", "patch") and api._use_up("conflicts"):
            someone = api._known(plural, namespace, name)
            annotations = {"someone": str(api.version), **someone["metadata"].get("annotations", {})}
            api.patch(plural, (namespace, name), "", {"metadata": {"annotations": annotations}}, MERGE)
            raise Refused(409, "Conflict", "the object has been modified; please apply your changes to the latest")
        old = copy.deepcopy(api._objects.get(plural, {}).get((namespace, name)))
        match verb:
            case "list":
                return api.listed(plural, namespace, query)
            case "get":
                return api._known(plural, namespace, name)
            case "create":
                return api.create(plural, namespace, api.admitted("CREATE", plural, body, None))
            case "update":
                if (body["metadata"].get("namespace", ""), body["metadata"]["name"]) != (namespace, name):
                    raise Refused(400, "BadRequest", "the name of the object does not match the name on the URL")
                return api.update(
                    plural, body if subresource else api.admitted("UPDATE", plural, body, old), subresource
                )
            case "patch":
                return api.patch(plural, (namespace, name), subresource, body, self.headers["Content-Type"])
            case _:
                return api.delete(plural, namespace, name)

    def _watch(self, place: re.Match, query: dict) -> None:
        self.close_connection = True
        if self.api._use_up("refused_watches"):
            return
        events = self.api.watched(place["plural"], place["namespace"] or "", query)
        if self.api._use_up("empty_watches"):
            events = iter(())
        first = next(events, None)  # before it, the answer may still be 410
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in itertools.chain([first] if first is not None else [], events):
            if event is None:
                self._chunk(b'{"type": "MODIFIED", "object": {"metad')
                return
            line = json.dumps(event).encode() + b"\n"
            # Chunks of a real server end anywhere.
            self._chunk(line[:20])
            self._chunk(line[20:])
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def _send(self, code: int, content: dict) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


MERGE = "application/merge-patch+json"


def asked(address: str, service: dict, ca_pem: str, review: dict) -> dict:
    """Ask a webhook over TLS that is verified as the API server does it: for the name of its service."""
    port = urlsplit(address).port
    context = ssl.create_default_context(cadata=ca_pem)
    name = f"{service['name']}.{service['namespace']}.svc"
    import http.client
    import socket

    connection = http.client.HTTPSConnection(name, port, context=context, timeout=10)
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sock = context.wrap_socket(raw, server_hostname=name)
    try:
        connection.request("POST", service.get("path", "/"), json.dumps(review), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise Refused(500, "InternalError", f"failed calling webhook: {response.status} {text[:200]!r}")
        return json.loads(text)
    finally:
        connection.close()


def merged(target: object, patch: object) -> object:
    """Apply a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def json_patched(target: dict, operations: list[dict]) -> dict:
    """Apply a JSON patch (RFC 6902): add, replace, remove and test."""
    result = copy.deepcopy(target)
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        parent = result
        for part in parents:
            parent = parent[int(part) if isinstance(parent, list) else part]
        place = last if isinstance(parent, dict) else len(parent) if last == "-" else int(last)
        _apply(operation["op"], parent, place, copy.deepcopy(operation.get("value")))
    return result


def _apply(op: str, parent, place, value) -> None:
    if op == "add" and isinstance(parent, list):
        parent.insert(place, value)
    elif op == "add":
        parent[place] = value
    elif op == "replace":
        parent[place]  # which must be there
        parent[place] = value
    elif op == "remove":
        del parent[place]
    elif op != "test" or parent[place] != value:
        raise Refused(422, "Invalid", f"{op} at {place} failed")


def _matches(content: dict, namespace: str, query: dict[str, str]) -> bool:
    metadata = content["metadata"]
    if namespace and metadata.get("namespace") != namespace:
        return False
    labels = metadata.get("labels") or {}
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace"),
        "type": content.get("type"),
    }
    return _select(query.get("labelSelector"), labels) and _select(query.get("fieldSelector"), fields)


def _select(selector: str | None, values: dict) -> bool:
    for term in filter(None, (selector or "").split(",")):
        name, operator, value = re.fullmatch(r"([^!=]+)(==|!=|=|$)(.*)", term).groups()
        if operator == "!=" and values.get(name) == value:
            return False
        if operator in ("=", "==") and values.get(name) != value:
            return False
        if operator == "" and name not in values:
            return False
    return True


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
