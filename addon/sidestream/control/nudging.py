"""
Telling kubelets that a bundle changed, so that pods have it in seconds and not in a minute.

A kubelet looks at what it mounts when it looks at a pod, and it does so at once when the pod changes. So the pods that
mount a bundle get an annotation. Only this costs more where there are more pods: one list for each bundle that changed,
and a patch for each of its pods, so many a second at most.

Source: Kubernetes, "Configure a Pod to Use a ConfigMap", "Mounted ConfigMaps are updated automatically".
"""

import logging
import threading
from collections.abc import Callable, Iterable

from sidestream.control.selecting import is_bundle_name
from sidestream.core.snapshot import Labels
from sidestream.sources.kubernetes.api import Api, ApiError
from sidestream.sources.kubernetes.objects import PODS, Key, Object, key_of

logger = logging.getLogger(__name__)

REVISION_ANNOTATION = "sidestream.dev/policy-revision"
PATCHES_PER_SECOND = 50.0
"""How many pods are nudged in a second, over all bundles."""
RETRY_SECONDS = 2.0
"""How long it takes until a bundle whose pods can't be listed is tried again."""


class Nudging:
    """A thread that nudges. `revision`: the bundle's resourceVersion, which tells nothing of its keys."""

    def __init__(
        self, api: Api, wanted_bundle: Callable[[str, Labels], str], unmounted: Callable[[Key], None], rate: float
    ) -> None:
        self._api = api
        self._wanted_bundle = wanted_bundle
        self._unmounted = unmounted
        self._pause_seconds = 1 / rate
        self._pending: dict[Key, str] = {}
        self._told: dict[str, tuple[str, ...]] = {}
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nudging", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it works, or is yet to begin."""
        return self._thread.ident is None or self._thread.is_alive()

    def start(self) -> None:
        """Start nudging."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, whoever is not nudged yet."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def nudge(self, bundle: Key, revision: str) -> None:
        """Have the pods that mount `bundle` nudged. What was still to be done for an older revision is not."""
        with self._changed:
            self._pending[bundle] = revision
            self._changed.notify()

    def clear(self) -> None:
        """Nudge nobody any more."""
        with self._changed:
            self._pending.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._changed:
                while not self._pending and not self._stopping.is_set():
                    self._changed.wait()
                if self._stopping.is_set():
                    return
                bundle, revision = next(iter(self._pending.items()))
                del self._pending[bundle]
            try:
                self._nudge(bundle, revision)
            except ApiError as e:
                logger.warning("pods could not be nudged", extra={"bundle": "/".join(bundle), "error": str(e)})
                with self._changed:
                    self._pending.setdefault(bundle, revision)
                self._stopping.wait(RETRY_SECONDS)

    def _nudge(self, bundle: Key, revision: str) -> None:
        namespace, name = bundle
        pods = [pod for pod in self._api.list(PODS, namespace)[0] if _lives(pod)]
        mounting = [pod for pod in pods if name in mounted(pod)]
        self._tell_of_others(namespace, pods)
        if not mounting:
            self._unmounted(bundle)
        for pod in mounting:
            if self._stopping.is_set() or bundle in self._pending:
                return  # a newer revision is to be told of
            if (pod["metadata"].get("annotations") or {}).get(REVISION_ANNOTATION) != revision:
                self._patch(pod, revision)
                self._stopping.wait(self._pause_seconds)

    def _patch(self, pod: Object, revision: str) -> None:
        try:
            self._api.patch(PODS, key_of(pod), {"metadata": {"annotations": {REVISION_ANNOTATION: revision}}})
        except ApiError as e:
            if e.status in (0, 429) or e.status >= 500:
                raise
            # It has gone, or may not be changed: its kubelet looks by itself within about a minute.
            logger.info("a pod could not be nudged", extra={"pod": "/".join(key_of(pod)), "error": str(e)})

    def _tell_of_others(self, namespace: str, pods: Iterable[Object]) -> None:
        """Tell which pods mount another bundle than they would get now: they need a restart, once they can have one."""
        others = tuple(
            sorted(
                pod["metadata"]["name"]
                for pod in pods
                if (found := mounted(pod))
                and self._wanted_bundle(namespace, pod["metadata"].get("labels") or {}) not in found
            )
        )
        if others and self._told.get(namespace) != others:
            logger.warning(
                "selectors changed after these pods were injected: restart them to have the providers for them",
                extra={"namespace": namespace, "count": len(others), "pods": others[:20]},
            )
        self._told[namespace] = others


def mounted(pod: Object) -> set[str]:
    """Return the names of the bundles among the volumes of a pod."""
    names = set()
    for volume in pod["spec"].get("volumes") or []:
        sources = [volume.get("secret") or {}, *((volume.get("projected") or {}).get("sources") or [])]
        for source in sources:
            part = source.get("secret") or source
            names |= {part.get("secretName"), part.get("name")}
    return {name for name in names if isinstance(name, str) and is_bundle_name(name)}


def _lives(pod: Object) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase not in ("Succeeded", "Failed") and not pod["metadata"].get("deletionTimestamp")
