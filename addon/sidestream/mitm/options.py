"""The addon's options, as mitmproxy declares and shows them."""

import os
from pathlib import Path

from cryptography import x509
from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.options import Options

from sidestream.mitm.runtime import Settings

POLICIES = "sidestream_policies"
LOG = "sidestream_log"
LABELS = "sidestream_labels"
INTERCEPT_TLS = "sidestream_intercept_tls"
FAIL_OPEN = "sidestream_fail_open"
UPSTREAM_CA = "sidestream_upstream_ca"

ALL = frozenset({POLICIES, LOG, LABELS, INTERCEPT_TLS, FAIL_OPEN, UPSTREAM_CA})


def declare(loader: Loader) -> None:
    """Declare the options. Defaults come from environment variables of the same name in upper case."""
    environment = os.environ.get
    loader.add_option(
        POLICIES, str, environment("SIDESTREAM_POLICIES", ""), "Folder (or file) of LLMProvider and LLMRoute documents."
    )
    loader.add_option(
        LOG, str, environment("SIDESTREAM_LOG", "-"), "File for one JSON line per exchange; - for stdout."
    )
    loader.add_option(
        LABELS, str, environment("SIDESTREAM_LABELS", ""), "Labels of the workload: name=value,name=value."
    )
    loader.add_option(
        INTERCEPT_TLS,
        bool,
        _is_true(environment("SIDESTREAM_INTERCEPT_TLS", "")),
        "Govern HTTPS clients too: decrypt connections whose SNI a policy names, with the CA in confdir.",
    )
    loader.add_option(
        FAIL_OPEN,
        bool,
        _is_true(environment("SIDESTREAM_FAIL_OPEN", "")),
        "On a bug of Sidestream, let the request go where it was going instead of answering 500.",
    )
    loader.add_option(
        UPSTREAM_CA,
        str,
        environment("SIDESTREAM_UPSTREAM_CA", ""),
        "PEM file of CAs to trust for providers, in addition to the system's.",
    )


def read(options: Options) -> Settings:
    """
    Return the options as settings.

    Raises:
        OptionsError: one makes no sense; the message says which and what to do.
    """
    return Settings(
        policies=options.sidestream_policies,
        log=options.sidestream_log,
        labels=_labels(options.sidestream_labels),
        intercept_tls=options.sidestream_intercept_tls,
        fail_open=options.sidestream_fail_open,
        upstream_ca_pem=_pem(options.sidestream_upstream_ca),
    )


def _is_true(text: str) -> bool:
    return text.lower() in ("1", "true", "yes", "on")


def _labels(text: str) -> dict[str, str]:
    labels = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not (name and equals):
            raise exceptions.OptionsError(f"{LABELS}: {part!r} is no label: write name=value,name=value")
        labels[name] = value
    return labels


def _pem(path: str) -> str:
    if not path:
        return ""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        x509.load_pem_x509_certificates(text.encode())
    except (OSError, ValueError) as e:
        raise exceptions.OptionsError(f"{UPSTREAM_CA}: {path!r} can't be read as PEM certificates: {e}") from e
    return text
