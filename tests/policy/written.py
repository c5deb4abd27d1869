"""
Policies as a test writes them.

`provider` and `route` make a document from the YAML of its spec; `compiled` compiles texts as
the files `1.yaml`, `2.yaml`, … of one folder, with real keys and files.
"""

import textwrap
from pathlib import Path

from sidestream.core.routing import Forward, RequestView, decide
from sidestream.core.snapshot import Snapshot
from sidestream.policy.compiling import Compilation, compile_policy
from sidestream.policy.places import Text
from sidestream.policy.problems import Severity
from sidestream.sources.folder import FilesAndEnvironment

NOWHERE = Path("/nonexistent")


def provider(spec: str = "host: api.alpha.example", *, name: str = "alpha", namespace: str = "default") -> str:
    """Return an LLMProvider. Its spec starts at line 5."""
    return _document("LLMProvider", name, namespace, spec)


def route(spec: str, *, name: str = "chat", namespace: str = "default") -> str:
    """Return an LLMRoute. Its spec starts at line 5."""
    return _document("LLMRoute", name, namespace, spec)


def rule(yaml: str) -> str:
    """Return an LLMRoute for `chat` with one rule, which starts at line 7."""
    return route("host: chat\nrules:\n" + textwrap.indent(textwrap.dedent(yaml).strip("\n"), "  ") + "\n")


def config(yaml: str, **names: str) -> str:
    """Return an LLMProvider with `yaml` as its default openAIConfig, which starts at line 9."""
    head = "host: api.alpha.example\nconfigs:\n  defaultConfig:\n    openAIConfig:\n"
    return provider(head + textwrap.indent(textwrap.dedent(yaml).strip("\n"), "      "), **names)


def together(*documents: str) -> str:
    """Return `documents` as one file."""
    return "---\n".join(documents)


def compiled(
    *texts: str | bytes,
    environment: dict[str, str] | None = None,
    folder: Path = NOWHERE,
    missing_key: Severity = Severity.ERROR,
) -> Compilation:
    files = [
        Text(f"{number}.yaml", folder, text.encode() if isinstance(text, str) else text)
        for number, text in enumerate(texts, 1)
    ]
    return compile_policy(files, FilesAndEnvironment(environment or {}), missing_key=missing_key)


def request(host: str = "chat", *, body: dict | None = None, labels: dict | None = None, **headers: str) -> RequestView:
    return RequestView(
        "POST",
        host,
        "/v1/chat/completions",
        {name.replace("_", "-"): value for name, value in headers.items()},
        {"messages": []} if body is None else body,
        labels or {},
    )


def forwarded(view: RequestView, snapshot: Snapshot, *, draw: float = 0.0) -> Forward:
    decision = decide(view, snapshot, draw=draw)
    assert isinstance(decision, Forward), decision
    return decision


def _document(kind: str, name: str, namespace: str, spec: str) -> str:
    metadata = f"metadata: {{name: {name}, namespace: {namespace}}}"
    head = f"apiVersion: istio.alibabacloud.com/v1beta1\nkind: {kind}\n{metadata}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"
