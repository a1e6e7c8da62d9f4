"""Data trees that are made as far as they are asked for: containers are dicts, lists are `Rows`, leaves are values;
a node that is a function makes itself when it is reached.

`locate` walks the steps of a path (RFC 8040, section 3.5.3, or the older style with keys as path segments) to a node; `plain`
turns a node into JSON values (RFC 7951). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from ebbtide.errors import BadInput, NotFound


class U64(int):
    """A number that RFC 7951 (section 6.1) writes as a string, and the older style as a number."""


class Rows(NamedTuple):
    """A list: its key leaves, all entries, and one by its keys (None: there is none)."""

    keys: tuple[str, ...]
    every: Callable[[], Iterable[dict[str, Any]]]
    one: Callable[[tuple[str, ...]], dict[str, Any] | None]


def rows(keys: Sequence[str], entries: Iterable[dict[str, Any]]) -> Rows:
    """A list whose entries are there already."""
    known = list(entries)
    wanted = tuple(keys)

    def one(values: tuple[str, ...]) -> dict[str, Any] | None:
        return next((e for e in known if tuple(str(e[k]) for k in wanted) == values), None)

    return Rows(wanted, lambda: known, one)


class Found(NamedTuple):
    """A node, its qualified name, and whether it is an entry of a list."""

    module: str
    name: str
    value: Any
    entry: bool


def steps(raw_path: str) -> list[str]:
    """The segments of a path, still percent-encoded."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", raw_path):
        raise BadInput("the path is not well percent-encoded", tag="malformed-message")
    return [segment for segment in raw_path.split("/") if segment]


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadInput("the path is not UTF-8", tag="malformed-message") from None


def locate(tree: Mapping[str, Any], path: Sequence[str], old: bool) -> Found:
    """The node at a path. `tree`: qualified names of the roots to their nodes.

    Raises:
        NotFound: data-missing for an entry that is not there; invalid-value for a name that no tree has.
        BadInput: keys that do not fit the list.
    """
    node: Any = tree
    module, name, entry = "", "", False
    left = list(path)
    while left:
        step, equals, keys = left.pop(0).partition("=")
        if old and equals:
            step, keys = f"{step}={keys}", ""
        key = _name(node, _decoded(step), module)
        prefix, _, name = key.rpartition(":")
        module, node, entry = prefix or module, _made(node[key]), False
        if isinstance(node, Rows):
            values = _keys(node, name, left, keys.split(",") if equals and not old else None, old)
            if values is not None:
                node, entry = node.one(values), True
                if node is None:
                    raise NotFound(f"there is no {name} {','.join(values)}")
        elif equals and not old:
            raise BadInput(f"{name} is not a list: it has no keys")
    return Found(module, name, node, entry)


def _made(node: Any) -> Any:
    return node() if callable(node) else node


def _name(node: Any, step: str, module: str) -> str:
    known = node if isinstance(node, Mapping) else {}
    prefix, _, local = step.rpartition(":")
    if step in known:
        return step
    if prefix and prefix == module and local in known:
        return local
    missing = NotFound(f"{step[:80]} is not known here: there is {', '.join(sorted(known)) or 'nothing below'}")
    missing.tag = "invalid-value"
    raise missing


def _keys(node: Rows, name: str, left: list[str], given: list[str] | None, old: bool) -> tuple[str, ...] | None:
    """The key values of an entry, or None for the whole list."""
    count = len(node.keys)
    if old:
        if not left:
            return None
        given = [left.pop(0) for _ in range(min(count, len(left)))]
    elif given is None:
        if left:
            raise BadInput(f"{name} is a list: name the entry, {name}={','.join('{' + k + '}' for k in node.keys)}")
        return None
    if len(given) != count:
        raise BadInput(f"{name} has {count} key(s) ({', '.join(node.keys)}), not {len(given)}")
    return tuple(map(_decoded, given))


def plain(value: Any, old: bool) -> Any:
    """A node as JSON values."""
    value = _made(value)
    if isinstance(value, Rows):
        return [plain(entry, old) for entry in value.every()]
    if isinstance(value, Mapping):
        return {name: plain(inner, old) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, old) for inner in value]
    if isinstance(value, U64):
        return int(value) if old else str(int(value))
    return value


def envelope(found: Found, old: bool) -> dict[str, Any]:
    """A node as the body of an answer: an entry as a list of one (RFC 8040, section 4.3), under its qualified name."""
    shown = plain(found.value, old)
    name = found.name if old else f"{found.module}:{found.name}"
    return {name: [shown] if found.entry else shown}
