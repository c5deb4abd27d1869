"""
Carrying out the steps of a plan, whoever else writes at the same time.

A conflict is no failure: what is there now is read, and written only if it is not right yet.
"""

import logging
from datetime import UTC, datetime

from sidestream.control.reconciling import WriteBundle, WriteStatus, is_ours
from sidestream.sources.kubernetes.api import Api, ApiError
from sidestream.sources.kubernetes.objects import SECRETS, Object, version_of

logger = logging.getLogger(__name__)

MAX_TRIES = 5
"""How often a write that conflicts is tried again."""


class NotOurs(Exception):
    """A Secret has the name of a bundle and is none."""


def rfc3339() -> str:
    """Return the time as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_bundle(api: Api, step: WriteBundle) -> Object:
    """
    Create or replace the Secret of a bundle, and return it as it is then.

    Raises:
        ApiError: it can't be written.
        NotOurs: there is a Secret of that name that somebody else made.
    """
    version = step.version
    for left in reversed(range(MAX_TRIES)):
        try:
            if not version:
                return api.create(SECRETS, step.content)
            metadata = step.content["metadata"] | {"resourceVersion": version}
            return api.replace(SECRETS, step.content | {"metadata": metadata})
        except ApiError as e:
            if not (e.is_conflict or (e.is_missing and version)) or not left:
                raise
        found = _found(api, step)
        if found is not None and (found.get("data") or {}) == step.content["data"]:
            return found
        version = version_of(found) if found is not None else ""
    raise AssertionError("the last try returns or raises")


def _found(api: Api, step: WriteBundle) -> Object | None:
    try:
        found = api.get(SECRETS, step.namespace, step.name)
    except ApiError as e:
        if e.is_missing:
            return None
        raise
    if not is_ours(found):
        raise NotOurs(f"the Secret {step.namespace}/{step.name} is not Sidestream's: rename or delete it")
    return found


def write_status(api: Api, step: WriteStatus) -> None:
    """
    Write the status of a document; one that was deleted meanwhile needs none.

    Raises:
        ApiError: it can't be written.
    """
    for left in reversed(range(MAX_TRIES)):
        try:
            api.patch(step.resource, (step.namespace, step.name), {"status": step.status}, subresource="status")
            return
        except ApiError as e:
            if e.is_missing:
                return
            if not e.is_conflict or not left:
                raise
