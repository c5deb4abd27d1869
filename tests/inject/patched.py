"""Applies a JSON Patch, for tests: the operations that we write, by the letter of RFC 6902."""

import copy


def patched(document, operations):
    """Return `document` after `operations`."""
    document = copy.deepcopy(document)
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        parent = document
        for part in parents:
            parent = parent[int(part)] if isinstance(parent, list) else parent[part]
        key = int(last) if isinstance(parent, list) else last
        exists = key < len(parent) if isinstance(parent, list) else key in parent
        assert exists or operation["op"] == "add", operation
        match operation["op"]:
            case "remove":
                del parent[key]
            case "add" if isinstance(parent, list):
                parent.insert(key, copy.deepcopy(operation["value"]))
            case "add" | "replace":
                parent[key] = copy.deepcopy(operation["value"])
    return document
