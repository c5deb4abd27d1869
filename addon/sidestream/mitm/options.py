"""The addon's options, as mitmproxy declares and shows them."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.options import Options
from mitmproxy.utils import human

from sidestream.core.errors import cut
from sidestream.mitm.runtime import AUTOMATIC, GRACE_SECONDS, OFF, Settings

logger = logging.getLogger(__name__)

POLICIES = "sidestream_policies"
LOG = "sidestream_log"
LABELS = "sidestream_labels"
INTERCEPT_TLS = "sidestream_intercept_tls"
FAIL_OPEN = "sidestream_fail_open"
ONLY_POLICY_HOSTS = "sidestream_only_policy_hosts"
UPSTREAM_CA = "sidestream_upstream_ca"
TRUST_DIR = "sidestream_trust_dir"
MAX_BODY = "sidestream_max_body"
MAX_HEAD = "sidestream_max_head"
MAX_EXCHANGES = "sidestream_max_exchanges"
MAX_CONNECTIONS = "sidestream_max_connections"
WEB_MAX_FLOWS = "sidestream_web_max_flows"
WEB_MAX_SIZE = "sidestream_web_max_size"
GRACE = "sidestream_grace"
ADMIN = "sidestream_admin"
ASM_NAMES = "sidestream_asm_names"
COST = "sidestream_cost"
OTEL = "sidestream_otel"
LOG_FORMAT = "sidestream_log_format"
LOG_SAMPLE = "sidestream_log_sample"
LOG_MAX_SIZE = "sidestream_log_max_size"
LOG_KEEP = "sidestream_log_keep"
LOG_CONTENT = "sidestream_log_content"
LOG_REDACT = "sidestream_log_redact"

LOG_FORMATS = ("json", "text")

ALL = frozenset(
    {
        POLICIES,
        LOG,
        LABELS,
        INTERCEPT_TLS,
        FAIL_OPEN,
        ONLY_POLICY_HOSTS,
        UPSTREAM_CA,
        TRUST_DIR,
        MAX_BODY,
        MAX_HEAD,
        MAX_EXCHANGES,
        MAX_CONNECTIONS,
        WEB_MAX_FLOWS,
        WEB_MAX_SIZE,
        GRACE,
        ADMIN,
        ASM_NAMES,
        COST,
        OTEL,
        LOG_FORMAT,
        LOG_SAMPLE,
        LOG_MAX_SIZE,
        LOG_KEEP,
        LOG_CONTENT,
        LOG_REDACT,
    },
)


def declare(loader: Loader) -> None:
    """Declare the options. Defaults come from environment variables of the same name in upper case."""
    environment = os.environ.get
    loader.add_option(
        POLICIES,
        str,
        environment("SIDESTREAM_POLICIES", ""),
        "Folder (or file) of LLMProvider and LLMRoute documents; kubernetes:NAMESPACE for those of a cluster.",
    )
    loader.add_option(
        LOG,
        str,
        environment("SIDESTREAM_LOG", "-"),
        "File for a line per exchange, - for stdout, or both: FILE,-",
    )
    loader.add_option(
        LABELS,
        str,
        environment("SIDESTREAM_LABELS", ""),
        "Labels of the workload: name=value,name=value; or the path (from /) of a file of Kubernetes' downward API.",
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
        ONLY_POLICY_HOSTS,
        bool,
        _is_true(environment("SIDESTREAM_ONLY_POLICY_HOSTS", "")),
        "Refuse requests for hosts that no policy names, in the modes regular and reverse.",
    )
    loader.add_option(
        UPSTREAM_CA,
        str,
        environment("SIDESTREAM_UPSTREAM_CA", ""),
        "PEM file of CAs to trust for providers, in addition to the system's.",
    )
    loader.add_option(
        TRUST_DIR,
        str,
        environment("SIDESTREAM_TRUST_DIR", ""),
        "Folder for what apps are to trust when TLS is intercepted: ca.crt; with the system's CAs ca-bundle.crt, .p12.",
    )
    loader.add_option(
        MAX_BODY,
        str,
        environment("SIDESTREAM_MAX_BODY", "64m"),
        "How large the body of a governed request may be (413 beyond); understands k/m/g suffixes.",
    )
    loader.add_option(
        MAX_HEAD,
        str,
        environment("SIDESTREAM_MAX_HEAD", "64k"),
        "How large the head of a request may be (431 beyond); understands k/m/g suffixes.",
    )
    loader.add_option(
        MAX_EXCHANGES,
        int,
        _number(MAX_EXCHANGES, 1000),
        "How many governed exchanges may be under way at a time (503 beyond).",
    )
    loader.add_option(
        MAX_CONNECTIONS,
        int,
        _number(MAX_CONNECTIONS, 10_000),
        "How many connections of clients there may be at a time; more are closed at once. 0: no limit.",
    )
    loader.add_option(
        WEB_MAX_FLOWS,
        int,
        _number(WEB_MAX_FLOWS, 1000),
        "How many flows mitmweb and mitmproxy keep; the oldest that are finished go. 0: no limit.",
    )
    loader.add_option(
        WEB_MAX_SIZE,
        str,
        environment("SIDESTREAM_WEB_MAX_SIZE", "256m"),
        "How large the bodies of the flows that they keep may be together; understands k/m/g suffixes. 0: any size.",
    )
    loader.add_option(
        GRACE,
        int,
        _number(GRACE, GRACE_SECONDS),
        "How many seconds what is under way may take when the proxy is to end (under `sidestream run`).",
    )

    loader.add_option(
        ADMIN,
        str,
        environment("SIDESTREAM_ADMIN", OFF),
        "Where metrics and health are to be read: HOST:PORT, off, or auto (127.0.0.1:15020, unless that is taken).",
    )
    loader.add_option(
        ASM_NAMES,
        bool,
        _is_true(environment("SIDESTREAM_ASM_NAMES", "")),
        "Also use the names of Alibaba Cloud Service Mesh for metrics and fields of records.",
    )
    loader.add_option(
        COST,
        bool,
        _is_true(environment("SIDESTREAM_COST", "")),
        "Say what exchanges cost by public prices, as far as these are known (needs sidestream[cost]).",
    )
    loader.add_option(
        OTEL,
        bool,
        _is_true(environment("SIDESTREAM_OTEL", "")),
        "Send spans and metrics over OTLP, as OTEL_* variables say, and continue traces (needs sidestream[otel]).",
    )

    loader.add_option(
        LOG_FORMAT,
        str,
        environment("SIDESTREAM_LOG_FORMAT", "json"),
        "How records are written: json, or text for people.",
    )
    loader.add_option(
        LOG_SAMPLE,
        str,
        environment("SIDESTREAM_LOG_SAMPLE", "1"),
        "The share of records that is written, from 0 to 1; failures always are.",
    )
    loader.add_option(
        LOG_MAX_SIZE,
        str,
        environment("SIDESTREAM_LOG_MAX_SIZE", "0"),
        "How large a file of records may become before it is rotated; understands k/m/g suffixes. 0: any size.",
    )
    loader.add_option(LOG_KEEP, int, _number(LOG_KEEP, 5), "How many rotated files of records are kept.")
    loader.add_option(
        LOG_CONTENT,
        bool,
        _is_true(environment("SIDESTREAM_LOG_CONTENT", "")),
        "Also log prompts and answers (JSON only), less what is known to be secret. They may hold anything.",
    )
    loader.add_option(
        LOG_REDACT,
        Sequence[str],
        environment("SIDESTREAM_LOG_REDACT", "").split(),
        "Patterns (RE2) of what is taken out of prompts and answers besides keys and e-mail addresses.",
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
        only_policy_hosts=options.sidestream_only_policy_hosts,
        upstream_ca_pem=_pem(options.sidestream_upstream_ca),
        trust_dir=options.sidestream_trust_dir,
        confdir=options.confdir,
        max_body_bytes=_bytes(MAX_BODY, options.sidestream_max_body),
        max_head_bytes=_bytes(MAX_HEAD, options.sidestream_max_head),
        max_exchanges=_at_least_one(options.sidestream_max_exchanges),
        max_connections=_not_negative(MAX_CONNECTIONS, options.sidestream_max_connections),
        web_max_flows=_not_negative(WEB_MAX_FLOWS, options.sidestream_web_max_flows),
        web_max_bytes=_bytes(WEB_MAX_SIZE, options.sidestream_web_max_size, least=0),
        grace_seconds=_not_negative(GRACE, options.sidestream_grace, none="no wait"),
        admin=_admin(options.sidestream_admin),
        asm_names=options.sidestream_asm_names,
        cost=options.sidestream_cost,
        otel=options.sidestream_otel,
        log_format=_log_format(options.sidestream_log_format),
        log_sample=_share(options.sidestream_log_sample),
        log_max_bytes=_bytes(LOG_MAX_SIZE, options.sidestream_log_max_size, least=0),
        log_keep=_not_negative(LOG_KEEP, options.sidestream_log_keep, none="keep none"),
        log_content=options.sidestream_log_content,
        log_redact=tuple(options.sidestream_log_redact),
    )


def _is_true(text: str) -> bool:
    return text.lower() in ("1", "true", "yes", "on")


def _number(name: str, default: int) -> int:
    text = os.environ.get(name.upper(), "")
    if not text or text.isdecimal():
        return int(text or default)
    logger.error("%s: %r is no number", name.upper(), text)  # while it starts, an error ends the process
    return default


def _not_negative(name: str, number: int, none: str = "no limit") -> int:
    if number < 0:
        raise exceptions.OptionsError(f"{name}: {number} is negative; write 0 for {none}")
    return number


def _admin(text: str) -> str:
    if text in (OFF, AUTOMATIC, "") or text.startswith("unix:"):
        return text or OFF
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise exceptions.OptionsError(f"{ADMIN}: {text!r} is no HOST:PORT; {OFF} and {AUTOMATIC} are words for it")
    return text


def _labels(text: str) -> dict[str, str]:
    if text.startswith("/"):
        return _labels_of_pod(text)
    labels = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not (name and equals):
            raise exceptions.OptionsError(f"{LABELS}: {part!r} is no label: write name=value,name=value")
        labels[name] = value
    return labels


def _labels_of_pod(path: str) -> dict[str, str]:
    """Read labels as Kubernetes' downward API writes them: name="value", line by line."""
    labels = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise exceptions.OptionsError(f"{LABELS}: {path!r} can't be read: {e}") from e
    for line in filter(None, lines):
        name, equals, quoted = line.partition("=")
        if not (name and equals and quoted[:1] == quoted[-1:] == '"' and len(quoted) > 1):
            raise exceptions.OptionsError(f'{LABELS}: {path!r} holds {cut(line)!r}, which is no label: name="value"')
        labels[name] = quoted[1:-1]  # a label holds nothing that would have to be escaped
    return labels


def _log_format(text: str) -> str:
    if text not in LOG_FORMATS:
        raise exceptions.OptionsError(f"{LOG_FORMAT}: {text!r} is no format: write {' or '.join(LOG_FORMATS)}")
    return text


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise exceptions.OptionsError(f"{LOG_SAMPLE}: {text!r} is no share: write a number from 0 to 1, like 0.1")
    return share


def _bytes(name: str, text: str, least: int = 1) -> int:
    try:
        size = human.parse_size(text)
    except ValueError:
        size = None
    if size is None or size < least:
        raise exceptions.OptionsError(f"{name}: {text!r} is no size: write a number of bytes, like 64m")
    return size


def _at_least_one(number: int) -> int:
    if number < 1:
        raise exceptions.OptionsError(f"{MAX_EXCHANGES}: {number} would let no call through: give at least 1")
    return number


def _pem(path: str) -> str:
    if not path:
        return ""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        x509.load_pem_x509_certificates(text.encode())
    except (OSError, ValueError) as e:
        raise exceptions.OptionsError(f"{UPSTREAM_CA}: {path!r} can't be read as PEM certificates: {e}") from e
    return text
