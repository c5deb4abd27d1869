"""
What an injection can be asked for, and the names that it uses in a pod.

Whoever injects gives options; annotations of the pod lie over them (`annotations`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata

PREFIX = "sidestream.dev/"
"""What our labels and annotations begin with."""
INJECT_LABEL = f"{PREFIX}inject"
"""``true`` or ``false``, on a namespace or a pod."""
STATUS_ANNOTATION = f"{PREFIX}status"
"""What an injection has added, so that the next one can take it out again."""

INIT_CONTAINER = "sidestream-init"
SIDECAR = "sidestream"
UID = 1337
"""Of the sidecar, user and group. init-container/redirect.sh lets it through."""
INIT_UID = 65534
PROXY_PORT = 15001
ADMIN_PORT = 15020

POLICY_FOLDER = "/etc/sidestream/policies"
TRUST_FOLDER = "/etc/sidestream/trust"
POD_FOLDER = "/etc/sidestream/pod"
HOME = "/var/lib/sidestream"

LOG_LEVELS = ("debug", "info", "warning", "error")

VERSION = metadata.version("sidestream")


@dataclass(frozen=True, slots=True)
class Resources:
    """Kubernetes quantities; ``None``: not said."""

    cpu_request: str | None = "50m"
    cpu_limit: str | None = None
    memory_request: str | None = "128Mi"
    memory_limit: str | None = "512Mi"


@dataclass(frozen=True, slots=True)
class Options:
    """
    How to inject.

    `include_cidrs`: empty for all. `native_sidecar`: the cluster knows init containers that go on running
    (Kubernetes 1.29). `environment`: of the sidecar, besides. `version`: what is noted in the pod.
    """

    image: str = f"sidestream:{VERSION}"
    init_image: str = f"sidestream-init:{VERSION}"
    image_pull_policy: str | None = None
    policy_secret: str = "sidestream-policy"  # noqa: S105 the name of a Secret
    native_sidecar: bool = True
    intercept_tls: bool = False
    include_ports: tuple[int, ...] = (80,)
    exclude_ports: tuple[int, ...] = ()
    include_cidrs: tuple[str, ...] = ()
    exclude_cidrs: tuple[str, ...] = ()
    log_level: str = "info"
    resources: Resources = Resources()
    environment: Mapping[str, str] = field(default_factory=dict)
    version: str = VERSION
