"""
The difference of two JSON values as a JSON Patch.

Lists of named mappings (containers, volumes, variables) are told apart by their names, so that what stays
is not written again.

Source: RFC 6902 (JSON Patch), RFC 6901 (pointers).
"""

import copy
from collections.abc import Iterable
from typing import Any

type Operation = dict[str, Any]
"""``op``, ``path``, and, unless something is removed, ``value``."""


def difference(old: Any, new: Any, path: str = "") -> list[Operation]:
    """Return operations that lead from `old` to `new`, one after the other."""
    if _is_same(old, new):
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return _mapping_difference(old, new, path)
    if isinstance(old, list) and isinstance(new, list):
        operations = _list_difference(old, new, path)
        if operations is not None:
            return operations
    return [{"op": "replace", "path": path, "value": new}]


def patched(content: Any, operations: Iterable[Operation]) -> Any:
    """Return a copy of `content` after `operations`, which are made for it."""
    content = copy.deepcopy(content)
    for operation in operations:
        *parents, last = parts_of(operation["path"])
        parent: Any = content
        for name in parents:
            parent = parent[int(name)] if isinstance(parent, list) else parent[name]
        key: Any = int(last) if isinstance(parent, list) else last
        if operation["op"] == "remove":
            del parent[key]
        elif operation["op"] == "add" and isinstance(parent, list):
            parent.insert(key, operation["value"])
        else:
            parent[key] = operation["value"]
    return content


def parts_of(path: str) -> list[str]:
    """Return the keys and indices of a pointer that is not the root's."""
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def pointer(path: str, part: object) -> str:
    """Return the pointer to `part` (a key or an index) of what is at `path`."""
    return f"{path}/{str(part).replace('~', '~0').replace('/', '~1')}"


def _is_same(old: Any, new: Any) -> bool:
    """Tell whether two values are the same JSON: ``True`` and 1 are not."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_is_same(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_is_same, old, new))
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)


def _mapping_difference(old: dict[Any, Any], new: dict[Any, Any], path: str) -> list[Operation]:
    operations: list[Operation] = [{"op": "remove", "path": pointer(path, key)} for key in old if key not in new]
    for key, value in new.items():
        if key in old:
            operations += difference(old[key], value, pointer(path, key))
        else:
            operations.append({"op": "add", "path": pointer(path, key), "value": value})
    return operations


def _list_difference(old: list[Any], new: list[Any], path: str) -> list[Operation] | None:
    """Return the operations on single items, or ``None`` if items can't be told apart or have changed places."""
    before, after = _names(old), _names(new)
    if before is None or after is None:
        return None
    kept = [name for name in before if name in after]
    if kept != [name for name in after if name in before]:
        return None
    operations: list[Operation] = [
        {"op": "remove", "path": pointer(path, index)}
        for index in reversed(range(len(old)))
        if before[index] not in after
    ]
    for index, item in enumerate(new):
        if after[index] in before:
            operations += difference(old[before.index(after[index])], item, pointer(path, index))
        else:
            operations.append({"op": "add", "path": pointer(path, index), "value": item})
    return operations


def _names(items: list[Any]) -> list[str] | None:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    texts = [name for name in names if isinstance(name, str)]
    return texts if len(texts) == len(items) == len(set(texts)) else None
