"""
Keys from the Secrets of one namespace.

A document of a cluster stands in no folder, and its controller's environment is not the
workload's. So `${NAME}` is the key NAME of the Secret `sidestream-keys` beside it, and files can't be had.
"""

from collections.abc import Mapping
from pathlib import Path

from sidestream.policy.keys import FromEnvironment, FromFile, FromSecret, KeyReference, Unavailable

ENVIRONMENT_SECRET = "sidestream-keys"  # noqa: S105 the name of a Secret is none
"""The Secret that stands for the environment in a cluster."""

type Secrets = Mapping[str, Mapping[str, str]]
"""The Secrets of a namespace: name → key → text."""


def secret_and_key(reference: FromSecret | FromEnvironment) -> tuple[str, str]:
    """Return the name of the Secret, and the key in it, that a reference means in a cluster."""
    match reference:
        case FromSecret(name=name, key=key):
            return name, key
        case FromEnvironment(name=name):
            return ENVIRONMENT_SECRET, name


class FromSecrets:
    """Fetches keys from `secrets`: those of the namespace that the documents are in."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def key(self, reference: KeyReference) -> str:
        """Return the text of a key."""
        if isinstance(reference, FromFile):
            raise Unavailable("a file can't be had in a cluster: use secretKeyRef in apiKeyFrom")
        name, key = secret_and_key(reference)
        secret = self._secrets.get(name)
        if secret is None:
            raise Unavailable(f"there is no Secret {name!r} in this namespace: create it with the key {key!r}")
        if key not in secret:
            raise Unavailable(f"the Secret {name!r} has no key {key!r} that is text: add it")
        return secret[key]

    def ca(self, path: Path) -> str:
        """Return the PEM text of a CA file: there is none in a cluster."""
        raise Unavailable(f"{path.name!r} can't be had: documents of a cluster have no files; leave out caFile")
