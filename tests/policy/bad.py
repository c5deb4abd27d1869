"""
Bad documents as tables: each is one file with one error.

The line that the report must name ends in `# here`.
"""

import textwrap
from dataclasses import dataclass

from sidestream.policy.problems import errors_in
from tests.policy.written import compiled, config, provider, rule, together

HERE = "# here"
ALPHA = provider()
"""A good provider, which routes refer to."""


@dataclass(frozen=True)
class Bad:
    name: str
    text: str
    document: str
    field: str
    words: tuple[str, ...]

    @property
    def line(self) -> int:
        (line,) = (number for number, line in enumerate(self.text.splitlines(), 1) if HERE in line)
        return line


def bad(name: str, text: str, field: str, *words: str, document: str | None = None) -> Bad:
    first = text.split("---\n", maxsplit=1)[0]
    title = "LLMRoute default/chat" if "kind: LLMRoute" in first else "LLMProvider default/alpha"
    return Bad(name, text, title if document is None else document, field, words)


def bad_text(name: str, text: str, *words: str) -> Bad:
    return Bad(name, textwrap.dedent(text).lstrip("\n"), "", "", words)


def bad_rule(name: str, yaml: str, field: str, *words: str) -> Bad:
    """Return a case whose rule is `yaml`; `field` is that below `spec.rules[0]`."""
    return bad(name, together(rule(yaml), ALPHA), f"spec.rules[0]{field}", *words)


def bad_match(name: str, condition: str, field: str, *words: str) -> Bad:
    """Return a case whose only condition is on the header `x`."""
    yaml = f"- matches: [headers: {{x: {condition}}}] {HERE}\n  backendRefs: [providerHost: api.alpha.example]"
    return bad_rule(name, yaml, f".matches[0].headers.x{field}", *words)


def bad_config(name: str, yaml: str, field: str, *words: str) -> Bad:
    return bad(name, config(yaml), f"spec.configs.defaultConfig.openAIConfig{field}", *words)


def bad_outliers(name: str, yaml: str, field: str, *words: str) -> Bad:
    """Return a case whose provider has the outlier detection `yaml`."""
    written = yaml if yaml.startswith("{") else f"{{{yaml}}}"
    return bad(
        name, provider(f"host: a.example\noutlierDetection: {written} {HERE}"), f"spec.outlierDetection{field}", *words
    )


def check(case: Bad) -> None:
    """Assert that the error of `case` is reported once, at its place, with what to do."""
    compilation = compiled(case.text)
    (problem,) = errors_in(compilation.problems)
    place = (problem.file, problem.line, problem.document, problem.field)
    assert compilation.snapshot is None
    assert place == ("1.yaml", case.line, case.document, case.field)
    assert [word for word in case.words if word not in problem.message] == []


def named(case: Bad) -> str:
    """Return what pytest calls `case`."""
    return case.name.replace(" ", "-")
