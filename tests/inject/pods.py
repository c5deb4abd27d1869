"""Pods to inject into, for any test and for Hypothesis."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sidestream.inject.options import Options
from sidestream.inject.trust import VARIABLES

EXAMPLES = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""How properties are tried: machines that do much else are slow at times."""


def pod(*containers, labels=None, annotations=None, **spec):
    """Return a pod; `containers`: more than one, or others."""
    metadata = {"name": "sleep", "labels": labels or {}, "annotations": annotations or {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": list(containers) or [{"name": "app", "image": "example/app"}], **spec},
    }


_NAMES = st.sampled_from(["app", "side", "proxy", "db", "a-b", "x"])
_ENV = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from([*VARIABLES, "PATH", "GREETING"])},
        optional={"value": st.text(max_size=5), "valueFrom": st.just({"fieldRef": {"fieldPath": "metadata.name"}})},
    ),
    max_size=4,
    unique_by=lambda variable: variable["name"],
)
_MOUNTS = st.lists(
    st.builds(lambda name: {"name": name, "mountPath": f"/{name}"}, _NAMES), max_size=2, unique_by=lambda m: m["name"]
)
_CONTAINERS = st.fixed_dictionaries(
    {"name": _NAMES},
    optional={
        "image": st.text(max_size=5),
        "env": _ENV,
        "volumeMounts": _MOUNTS,
        "args": st.lists(st.text(max_size=3), max_size=2),
        "securityContext": st.builds(lambda uid: {"runAsUser": uid}, st.integers(0, 1336)),
        "ports": st.just([{"containerPort": 8080}]),
        "restartPolicy": st.just("Always"),
    },
)
_ANNOTATIONS = st.dictionaries(
    st.sampled_from(["example.com/a", "sidestream.dev/policy-revision", "kubectl.kubernetes.io/default-container"]),
    st.text(max_size=5),
    max_size=2,
)


@st.composite
def pods(draw):
    """Draw a pod that can be injected."""
    containers = draw(st.lists(_CONTAINERS, min_size=1, max_size=4, unique_by=lambda container: container["name"]))
    first = draw(st.integers(0, len(containers) - 1))
    spec = {"containers": containers[first:]}
    if first or draw(st.booleans()):
        spec["initContainers"] = containers[:first]
    if draw(st.booleans()):
        names = draw(st.lists(_NAMES, max_size=2, unique=True))
        spec["volumes"] = [{"name": name, "emptyDir": {}} for name in names]
    if draw(st.booleans()):
        spec["terminationGracePeriodSeconds"] = draw(st.integers(0, 600))
    drawn = {"spec": spec}
    if draw(st.booleans()):
        drawn["metadata"] = {"labels": {"app": "sleep"}} | draw(
            st.one_of(st.just({}), st.fixed_dictionaries({"annotations": _ANNOTATIONS}))
        )
    return drawn


options = st.builds(
    Options,
    native_sidecar=st.booleans(),
    intercept_tls=st.booleans(),
    image=st.sampled_from(["sidestream:1", "sidestream:2"]),
    version=st.sampled_from(["1", "2"]),
)

_WORDS = st.sampled_from(
    [
        *("metadata", "annotations", "labels", "spec", "containers", "initContainers", "volumes", "env", "envFrom"),
        *("name", "value", "valueFrom", "secretKeyRef", "secretRef", "secret", "projected", "sources", "ports"),
        *("securityContext", "runAsUser", "volumeMounts", "mountPath", "hostNetwork", "os", "nodeSelector"),
        *("sidestream.dev/status", "sidestream.dev/intercept-tls", "sidestream.dev/inject", "sidestream", "true"),
        *("restartPolicy", "terminationGracePeriodSeconds", "volumes", "environment"),
    ]
)
_ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 1337), _WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_WORDS, inner, max_size=4)),
    max_leaves=25,
)


@st.composite
def anything_like_a_pod(draw):
    """Draw a value that may be made as a pod is, or not."""
    containers = draw(st.lists(st.dictionaries(_WORDS, _ANYTHING, max_size=5), max_size=2))
    spec = draw(st.dictionaries(_WORDS, _ANYTHING, max_size=5))
    if draw(st.booleans()):
        spec["containers"] = [{"name": "app"} | container for container in containers]
    metadata = draw(
        st.one_of(_ANYTHING, st.fixed_dictionaries({}, optional={"annotations": st.dictionaries(_WORDS, _WORDS)}))
    )
    return {"metadata": metadata, "spec": draw(st.one_of(st.just(spec), _ANYTHING))}
