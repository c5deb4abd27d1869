"""
What the tests of `core` are made of: policies and requests of which a test says only what matters to it.

The second half makes any policy and any request. Names and values come from short lists, so
that conditions hold often and rules compete.
"""

import itertools
import pickle
import pprint
import re
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from traceback import TracebackException
from types import MappingProxyType

from hypothesis import strategies as st

from sidestream.core.planning import plan
from sidestream.core.routing import Forward, RequestView
from sidestream.core.secret import Secret
from sidestream.core.snapshot import Backend, Condition, Endpoint, OpenAIConfig, Provider, Route, Rule, Snapshot

KEY = "sk-marker-core-provider-5d21ab"
OTHER_KEY = "sk-marker-core-rule-90ce17"
CLIENT_KEY = "sk-marker-core-client-41fa66"
MARKER = "sk-marker-core"
"""What every key above holds and nothing else does."""

CREDENTIALS = {
    "authorization": f"Bearer {CLIENT_KEY}",
    "api-key": CLIENT_KEY,
    "x-api-key": CLIENT_KEY,
    "proxy-authorization": f"Basic {CLIENT_KEY}",
}

DASHSCOPE = "dashscope.aliyuncs.com"
MOONSHOT = "api.moonshot.cn"
MESSAGES = [{"role": "user", "content": "hello, 世界"}]


# --- one of each ----------------------------------------------------------------------------------


def make_config(key=KEY, **fields):
    return OpenAIConfig(key=None if key is None else Secret(key), **fields)


def make_provider(host=DASHSCOPE, *, path="/compatible-mode/v1/chat/completions", config=None, **fields):
    fields.setdefault("endpoint", Endpoint(host, 443, host, server_name=host))
    return Provider(f"default/{host}", host, path=path, config=config or make_config(), **fields)


def make_backend(provider=None, **fields):
    provider = provider or make_provider()
    return Backend(provider, fields.pop("config", provider.config), **fields)


def make_weighted(*weights):
    """Return a backend for each weight; the provider's host is its position."""
    return tuple(make_backend(make_provider(f"p{at}.example"), weight=weight) for at, weight in enumerate(weights))


def make_condition(subject="header", name="user-type", kind="exact", expected="subscriber"):
    tests = {
        "exact": lambda value: value == expected,
        "prefix": lambda value: value is not None and value.startswith(expected),
        "regex": lambda value: value is not None and re.fullmatch(expected, value) is not None,
        "present": lambda value: (value is not None) is (expected == "true"),
    }
    return Condition(subject, name, kind, expected, tests[kind])


def make_rule(*backends, name=None, matches=(), **fields):
    return Rule(name, matches, backends or (make_backend(),), **fields)


def make_route(*rules, host=DASHSCOPE):
    return Route("default/route", host, rules or (make_rule(),))


def make_snapshot(*policies):
    return Snapshot("r1", MappingProxyType({policy.host: policy for policy in policies}))


def make_request(**fields):
    usual = {
        "method": "POST",
        "host": DASHSCOPE,
        "target": "/v1/chat/completions",
        "headers": {"content-type": "application/json"},
        "body": {"model": "gpt-4o", "messages": MESSAGES},
    }
    return RequestView(**(usual | fields))


def planned(request=None, provider=None, span=None, **config):
    """Return the plan for `request`, sent to `provider` with a config of `config`, as an attempt with `span`."""
    provider = provider or make_provider(config=make_config(**config))
    return plan(Forward(make_backend(provider)), request or make_request(), span)


# --- streams and what is shown --------------------------------------------------------------------


def cut_at(places, stream):
    """Return `stream` in pieces, cut at `places`."""
    return [stream[start:end] for start, end in itertools.pairwise([0, *sorted(places), len(stream)])]


def pieces(stream, size=1):
    """Return `stream` in pieces of `size` bytes."""
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def places(stream):
    """Make places to cut `stream` at."""
    return st.lists(st.integers(0, len(stream)), max_size=12)


def _failing(value):
    message = f"cannot use {value!r}"
    raise ValueError(message)


WAYS_TO_SHOW = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": "{:>80}".format,
    "formatted repr": "{!r:>80}".format,
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031 logging formats like this
    "pprint": pprint.pformat,
    "inside of others": lambda value: str({"value": [(value,)]}),
    "asdict": lambda value: str(asdict(value) if is_dataclass(value) else value.as_dict()),
    "pickle": lambda value: pickle.dumps(value).decode("latin-1"),
    "exception": _failing,
}


def shown(way, value):
    """Return what `way` shows of `value`; where it fails, the traceback with the variables of each frame."""
    try:
        return str(WAYS_TO_SHOW[way](value))
    except (TypeError, ValueError, AttributeError, pickle.PicklingError) as e:
        return "".join(TracebackException.from_exception(e, capture_locals=True).format())


# --- any ------------------------------------------------------------------------------------------

_HEADERS = ("user-type", "x-user-id", "authorization")
_LABELS = ("app", "team")
_VALUES = ("", "sub", "subscriber", "free", "世界", "\udcff")
_MODELS = ("gpt-4", "gpt-4o", "qwen-max")
_HOSTS = (DASHSCOPE, MOONSHOT, "demo-llm-server")
_TARGETS = ("", "/", "/?a=1", "/v1/chat/completions", "/v1/embeddings", "/models/x?a=1", "/models/../admin", "/health")

_BODIES = (
    None,
    {},
    {"messages": MESSAGES},
    {"messages": MESSAGES, "model": "gpt-4", "stream": True, "stream_options": {"include_usage": True}},
    {"messages": MESSAGES, "model": "gpt-4o", "temperature": 0.7},
    {"messages": [], "model": ["gpt-4"], "stream": "true"},
    {"input": "hello", "model": "qwen-max", "stream": True},
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
json_objects = st.dictionaries(st.text(max_size=8), json_values, max_size=3)
chat_bodies = st.builds(
    lambda other, known: other | known,
    json_objects,
    st.fixed_dictionaries(
        {"messages": json_values},
        optional={
            "model": st.sampled_from(_MODELS) | json_values,
            "stream": st.booleans() | st.none(),
            "stream_options": st.just({"include_usage": True}),
            "temperature": st.floats(0, 2),
        },
    ),
)
# A policy can't set model, stream and messages as parameters: that is a problem when it is compiled.
parameters = st.dictionaries(
    st.sampled_from(["temperature", "top_p", "stream_options", "extra"]),
    st.sampled_from([None, 0, 0.2, True, "x", [], {"a": [None]}]),
    max_size=3,
)
configs = st.builds(
    OpenAIConfig,
    model=st.none() | st.sampled_from(_MODELS),
    stream=st.none() | st.booleans(),
    key=st.none() | st.builds(Secret, st.sampled_from([KEY, OTHER_KEY])),
    model_mapping=st.dictionaries(st.sampled_from([*_MODELS, "*"]), st.sampled_from(_MODELS), max_size=2),
    parameters=parameters,
)
_PROVIDERS = [
    make_provider(
        host,
        path=path,
        config=make_config(model=model, stream=stream),
        rule_configs={"vip-route": make_config(OTHER_KEY, model="vip", parameters={"temperature": 0.2})},
        selector=selector,
    )
    for host, path, model, stream, selector in [
        (DASHSCOPE, "/compatible-mode/v1/chat/completions", "qwen-max", None, None),
        (DASHSCOPE, "/v1/chat/completions?v=1", None, True, {"app": "sleep"}),
        (MOONSHOT, "/v1/chat/completions", None, False, {}),
        (MOONSHOT, "/chat", "moonshot-v1-8k", True, {"team": "a"}),
        ("demo-llm-server", "/chat/completions", None, None, None),
    ]
]
_CONDITIONS = [
    make_condition(subject, name, kind, expected)
    for subject, name, kind, expected in [
        *itertools.product(["header"], _HEADERS, ["exact", "prefix"], ["", "sub", "free"]),
        *itertools.product(["header", "sourceLabel"], [*_HEADERS, *_LABELS], ["present"], ["true", "false"]),
        *itertools.product(["sourceLabel"], _LABELS, ["exact"], ["sleep", "a"]),
        *itertools.product(["model"], [""], ["exact", "prefix", "regex"], ["gpt-4", "gpt-.*"]),
    ]
]
providers = st.sampled_from(_PROVIDERS)
backends = st.builds(Backend, providers, configs, st.integers(0, 3), st.integers(0, 1))
_BACKENDS = [
    Backend(provider, provider.config_for(name), weight, priority)
    for provider, name, weight, priority in itertools.product(_PROVIDERS, ["vip-route", None], [0, 1, 5], [0, 1])
]
_MATCHES = [(), ((),), *itertools.product(itertools.combinations(_CONDITIONS, 1), repeat=2)]
_MATCHES += [(pair,) for pair in itertools.combinations(_CONDITIONS, 2)]
rules = st.builds(
    Rule,
    st.none() | st.sampled_from(["vip-route", "free-route"]),
    st.just(()) | st.sampled_from(_MATCHES),
    st.lists(st.sampled_from(_BACKENDS), max_size=3).map(tuple),
    hash_on_header=st.none() | st.sampled_from(_HEADERS),
)
routes = st.builds(
    lambda host, rules: make_route(*rules, host=host), st.sampled_from(_HOSTS), st.lists(rules, min_size=1, max_size=3)
)
snapshots = st.builds(lambda policies: make_snapshot(*policies), st.lists(routes | providers, max_size=3))
requests = st.builds(
    RequestView,
    method=st.sampled_from(["POST", "GET"]),
    host=st.sampled_from([*_HOSTS, "elsewhere.example", ""]),
    target=st.sampled_from(_TARGETS),
    headers=st.fixed_dictionaries({}, optional={name: st.sampled_from(_VALUES) for name in _HEADERS}),
    body=st.sampled_from(_BODIES),
    labels=st.sampled_from([{}, {"app": "sleep"}, {"app": "other"}, {"app": "sleep", "team": "a"}]),
)
draws = st.floats(0, 1, exclude_max=True)


def middles(count):
    """Return `count` draws, evenly spread: the middles of `count` equal parts of [0, 1)."""
    return [(at + 0.5) / count for at in range(count)]


def json_lines(*objects: str, end: str = "\n") -> bytes:
    """Return a stream of one event for each of `objects`."""
    return "".join(f"data: {text}{end}{end}" for text in objects).encode()


def fed(meter, chunks: Iterable[bytes]):
    """Return `meter` after it has read `chunks` to their end."""
    for chunk in chunks:
        meter.feed(chunk)
    meter.finish()
    return meter
