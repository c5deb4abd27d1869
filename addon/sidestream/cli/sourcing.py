"""Where policies come from: a folder, or a namespace of a cluster."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidestream.core.snapshot import Labels
from sidestream.policy.problems import PolicyError
from sidestream.sources.folder import Folder
from sidestream.sources.watching import PolicyWatch

KUBERNETES = "kubernetes:"
"""What policies start with that are those of a namespace, which follows; nothing: that of the pod."""


def policy_of(policies: str, labels: Labels) -> tuple[PolicyWatch[Any], Callable[[], None]]:
    """
    Return the policy that `policies` names, and what gives up its source.

    Raises:
        PolicyError: the policy does not compile.
        ValueError: no cluster is configured.
    """
    if not policies.startswith(KUBERNETES):
        return PolicyWatch(Folder(Path(policies), os.environ), labels), lambda: None
    # Here, because it is an extra, and takes a second to import.
    from sidestream.sources.kubernetes.api import ApiError, connected, own_namespace  # noqa: PLC0415
    from sidestream.sources.kubernetes.cluster import Cluster  # noqa: PLC0415

    try:
        api = connected()
    except ApiError as e:
        raise ValueError(str(e)) from e
    cluster = Cluster(api, policies.removeprefix(KUBERNETES) or own_namespace(), os.environ)
    try:
        return PolicyWatch(cluster, labels), cluster.close
    except PolicyError:
        cluster.close()
        raise
