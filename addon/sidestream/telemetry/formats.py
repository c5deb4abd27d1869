"""How a record is written as a line: JSON for programs, one line of text for people."""

import json
from collections.abc import Callable

from sidestream.core.exchange import Record
from sidestream.telemetry.redacting import Redactor

ASM_FIELDS = {
    "request_prompt_tokens": "prompt_tokens",
    "request_completion_tokens": "completion_tokens",
}
"""Field of Alibaba Cloud Service Mesh's access log → ours of the same meaning. `request_model` is the same in both."""


class JsonLine:
    """
    Writes a record as JSON.

    `asm_names`: with Alibaba Cloud Service Mesh's fields besides ours. `redact`: what the bodies of an
    exchange go through, where its record has them.
    """

    def __init__(self, *, asm_names: bool = False, redact: Callable[[str], str] = Redactor()) -> None:  # noqa: B008 it has no state
        self._asm_names = asm_names
        self._redact = redact

    def __call__(self, record: Record) -> str:
        """Return `record` as a line."""
        fields = record.as_dict()
        if self._asm_names:
            fields |= {theirs: fields[ours] for theirs, ours in ASM_FIELDS.items()}
        if record.content is not None:
            fields["request_body"] = self._redact(record.content.request.decode(errors="replace"))
            fields["response_body"] = self._redact(record.content.response.decode(errors="replace"))
        # ASCII: any stream takes it, and no character in it is taken for the end of a line.
        return _ENCODER.encode(fields)


_ENCODER = json.JSONEncoder(separators=(",", ":"))


def text_line(record: Record) -> str:
    """
    Return `record` as a line of text.

    Like ``09:41:07.250 200 0.42s dashscope.aliyuncs.com vip-route → default/dashscope qwen-turbo stream 12→130 tok``.
    """
    parts = [record.time[11:23], str(record.status or "---"), f"{record.duration_seconds:.2f}s", record.host]
    if record.provider is not None:
        rule = record.rule or (record.route and record.route.rpartition("/")[2])
        parts += [*([rule] if rule else []), "→", record.provider]
        parts += [
            word for word in (record.sent_model, record.operation if record.operation != "chat" else None) if word
        ]
    if record.stream:
        parts.append("stream")
    if record.usage_partial is not None:
        counted = (
            str(count) if count is not None else "?" for count in (record.prompt_tokens, record.completion_tokens)
        )
        parts.append("→".join(counted) + " tok" + (" so far" if record.usage_partial else ""))
    if record.cost_usd is not None:
        parts.append(f"${record.cost_usd:.6f}")
    if len(record.attempts) > 1:
        failed = (f"{attempt.provider}: {attempt.error}" for attempt in record.attempts if attempt.error)
        parts.append(f"({len(record.attempts)} attempts; {', '.join(failed)})")
    if record.error is not None:
        parts.append(f"! {record.error}")
    # Names are the client's to choose: no character of theirs begins another line, or means something to a terminal.
    return "".join(c if c.isprintable() else "?" for c in " ".join(parts)).encode("utf-8", "replace").decode()
