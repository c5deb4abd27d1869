"""
YAML that is changed in places: all that a JSON Patch does not name stays as it was written.

The patch is applied to the nodes that the text is made of, so that a mode stays octal, a word that other readers take
for true stays that word, and text stays in its quotes. Aliases are written out and merge keys merged, as a change of
one place must not show at another; comments are lost.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterable
from typing import Any

import yaml

from sidestream.inject.patching import Operation, parts_of, patched
from sidestream.policy.syntax import compose

_LOOKS_LIKE_A_NUMBER = re.compile(r"[-+.]?[.\d][\d_.,:xXoOa-fA-F+-]*")
"""Text that some reader of YAML may take for a number."""
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


def edited(text: str, operations: Iterable[Operation]) -> str:
    """Return `text`, one document that `policy.syntax` accepts, after `operations`."""
    if text.lstrip().startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):
            return _edited_json(text, operations)
    root = _separate(compose(text))
    for operation in operations:
        _apply(root, operation)
    stream = io.StringIO()
    yaml.serialize(root, stream, Dumper=_Dumper, width=-1, allow_unicode=True)
    return stream.getvalue()


def _edited_json(text: str, operations: Iterable[Operation]) -> str:
    """Return JSON, which some readers tell from YAML by how it begins, as JSON."""
    content = patched(json.loads(text), operations)
    return json.dumps(content, ensure_ascii=False, indent=4 if "\n" in text.strip() else None) + "\n"


class _Dumper(yaml.CSafeDumper):
    """Writes everything out, without anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 its signature
        return True


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.Node:
    style = '"' if _LOOKS_LIKE_A_NUMBER.fullmatch(text) else None
    return dumper.represent_scalar(_TEXT, text, style)


_Dumper.add_representer(str, _represent_text)


def _node_of(value: object) -> yaml.Node:
    node: yaml.Node = _Dumper(io.StringIO(), sort_keys=False).represent_data(value)
    return node


def _separate(node: Any) -> yaml.Node:
    """Return a copy of `node` in which no part stands at two places, and merge keys are merged."""
    if isinstance(node, yaml.ScalarNode):
        # PyYAML takes 12:30 for a number, nobody else does.
        tag = _TEXT if node.style is None and ":" in node.value else node.tag
        return yaml.ScalarNode(tag, node.value, style=node.style)
    if isinstance(node, yaml.SequenceNode):
        return yaml.SequenceNode(node.tag, [_separate(item) for item in node.value], flow_style=node.flow_style)
    own: list[tuple[yaml.Node, yaml.Node]] = []
    merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        if key.tag == _MERGE:
            for mapping in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                for merged_key, merged_value in _separate(mapping).value:
                    merged.setdefault(merged_key.value, (merged_key, merged_value))
        else:
            own.append((_separate(key), _separate(value)))
    names = {key.value for key, _ in own}
    inherited = [pair for name, pair in merged.items() if name not in names]
    return yaml.MappingNode(node.tag, [*inherited, *own], flow_style=node.flow_style)


def _apply(root: Any, operation: Operation) -> None:
    *parents, last = parts_of(operation["path"])
    parent: Any = root
    for part in parents:
        parent = parent.value[int(part)] if isinstance(parent, yaml.SequenceNode) else _value(parent, part)
    new = _node_of(operation["value"]) if operation["op"] != "remove" else None
    if isinstance(parent, yaml.SequenceNode):
        index = int(last)
        parent.value[index : index + (operation["op"] != "add")] = [] if new is None else [new]
    else:
        _set(parent, _node_of(last), new)
    if len(parent.value) == 1 and not root.flow_style:
        parent.flow_style = False  # what was empty, `[]`, and is not any more


def _value(mapping: Any, name: str) -> yaml.Node:
    value: yaml.Node = next(value for key, value in mapping.value if key.value == name)
    return value


def _set(mapping: Any, name: Any, new: yaml.Node | None) -> None:
    pairs = mapping.value
    for index, (key, _) in enumerate(pairs):
        if key.value == name.value:
            pairs[index : index + 1] = [] if new is None else [(key, new)]
            return
    if new is not None:
        pairs.append((name, new))
