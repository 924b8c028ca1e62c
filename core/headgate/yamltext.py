"""YAML bytes to plain data with exact positions, whatever the bytes are.

YAML 1.2 core: `NO`, `on`, `12:30:45` and dates are strings, `010` is ten. Keys are strings and occur once. Size, depth
and the work that aliases make are bounded before anything is built: libyaml's composer recurses in C and is killed by
25,000 nested brackets. What this module refuses to do: merge keys, tags, templates, more than one document.

Positions are computed when they are asked for: a document that is fine never pays for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from headgate.findings import Finding, Place, cut

MAX_BYTES = 256 * 1024  # the longest real file of the corpus has 6 kB
MAX_DEPTH = 64
MAX_NODES = 20_000  # after aliases are expanded
SAFE_DEPTH = 1_000  # libyaml's composer is known to survive 15,000

Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(f"{sign}inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_BLOCK_PREFIX = re.compile(rb"^[ ?:\-\t]+", re.MULTILINE)
_TEMPLATE = re.compile(r"(?<!\$)\{\{-?\s*([A-Za-z_][\w.\-]*)[^{}]*\}\}")
_WHOLE_VALUE = re.compile(r"\$(?P<a>[A-Za-z_]\w*)|\$\{(?P<b>[A-Za-z_]\w*)\}|<(?P<c>[A-Z][A-Z0-9_]*)>")
_MAYBE = re.compile(rb"""\{\{|[:\-,\[{>|]\s*["']?(\$[A-Za-z{]|<[A-Z])""")  # cheap, and true too often
_COMMENT = re.compile(r"(?m)(^|\s)#.*$")

_PLAIN = "headgate:plain"
_TEXT = "tag:yaml.org,2002:str"
_TAGS = {
    "": _TEXT,
    _TEXT: _TEXT,
    "tag:yaml.org,2002:int": _PLAIN,
    "tag:yaml.org,2002:float": _PLAIN,
    "tag:yaml.org,2002:bool": _PLAIN,
    "tag:yaml.org,2002:null": _PLAIN,
}


class PureLoader(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser, yaml.composer.Composer):
    """The same in Python, for a PyYAML that was built without libyaml."""

    def __init__(self, data: bytes) -> None:
        yaml.reader.Reader.__init__(self, data)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        return _PLAIN if implicit and implicit is not True and implicit[0] else _TEXT

    def descend_resolver(self, *_: Any) -> None:
        """Path resolvers are not used."""

    def ascend_resolver(self) -> None:
        """Path resolvers are not used."""


def _c_loader() -> Any:
    """libyaml's composer with the same idea of a plain scalar; None: PyYAML was built without it."""
    if not yaml.__with_libyaml__:
        return None
    from yaml import _yaml

    mixed = {name: vars(PureLoader)[name] for name in ("resolve", "descend_resolver", "ascend_resolver")}
    return type("CLoader", (_yaml.CParser,), mixed)


C_LOADER = _c_loader()
LOADER: Any = C_LOADER or PureLoader


class _Refused(Exception):
    def __init__(self, finding: Finding) -> None:
        self.finding = finding


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document. `value` is dicts with string keys, lists, str, int, float, bool, None."""

    file: str
    value: Any
    data: bytes = field(repr=False, default=b"")
    placeholders: tuple[tuple[Path, str], ...] = ()  # values that somebody meant to fill in: (where, name)

    def place(self, path: Path = ()) -> Place:
        """Where a value starts; of its nearest parent that is there, when there is no such value."""
        return _at(self.file, self._walk(path)[1])

    def key_place(self, path: Path) -> Place:
        """Where the key of a value starts (of a list's item: the item)."""
        return _at(self.file, self._walk(path)[0])

    def without_value(self) -> Document:
        """The text alone: enough for positions, and a tenth of the memory."""
        return Document(self.file, None, self.data, self.placeholders)

    def _walk(self, path: Path) -> tuple[Any, Any]:
        node = _compose(self.data)
        key = node
        for part in path:
            step = _child(node, part)
            if step is None:
                return key, key
            key, node = step
        return key, node


@dataclass(frozen=True, slots=True)
class Parsed:
    document: Document | None  # None: findings say why
    findings: tuple[Finding, ...] = ()


def parse(data: bytes, file: str) -> Parsed:
    """Reads one document. Never raises for what the bytes hold."""
    try:
        _check_bytes(data, file)
        node = _compose(data)
        if node is None:
            raise _refuse("yaml-empty", Place(file, 1, 1), "the file is empty", "", "write the fields, or delete it")
        return Parsed(Document(file, _Builder(file, data).build(node), data, _placeholders(data, node)))
    except _Refused as refused:
        return Parsed(None, _unless_placeholders(data, file, refused.finding))
    except yaml.YAMLError as error:
        return Parsed(None, _unless_placeholders(data, file, _syntax(error, data, file)))


@lru_cache(maxsize=16)  # several findings in one file ask for several places of it
def _compose(data: bytes) -> Any:
    return LOADER(data).get_single_node()


# Before libyaml sees anything


def _check_bytes(data: bytes, file: str) -> None:
    if len(data) > MAX_BYTES:
        raise _refuse(
            "yaml-size",
            Place(file),
            f"{len(data):,} bytes of YAML, more than {MAX_BYTES:,}",
            "whoever opens a pull request decides what is read here, so sizes are bounded",
            "keep data and models in files of their own, beside the YAML",
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(errors="replace")
        raise _refuse(
            "yaml-encoding",
            Place(file, *_line_column(before, len(before))),
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            "the file is in another encoding, or is not text",
            "save the file as UTF-8",
        ) from error
    if _deepest(data) > SAFE_DEPTH:
        _check_depth(data, file)


def _deepest(data: bytes) -> int:
    """An upper bound of the nesting: a flow level has a bracket, a block level a column, or a sequence in that."""
    columns = max((len(prefix) for prefix in _BLOCK_PREFIX.findall(data)), default=0)
    return data.count(b"[") + data.count(b"{") + 2 * columns + 2


def _check_depth(data: bytes, file: str) -> None:
    """Counts nesting event by event, which needs no recursion."""
    depth = 0
    for event in yaml.parse(data, Loader=yaml.CLoader if C_LOADER else yaml.Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _too_deep(file, event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _too_deep(file: str, mark: Any) -> _Refused:
    return _refuse(
        "yaml-depth",
        Place(file, mark.line + 1, mark.column + 1),
        f"nested deeper than {MAX_DEPTH} levels",
        "no file here needs it, and parsers break on it",
        "flatten it, or look for brackets that are never closed",
    )


# Nodes to values


class _Builder:
    def __init__(self, file: str, data: bytes) -> None:
        self.file = file
        self.data = data
        self.nodes = 0

    def build(self, node: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._too_many(node)
        if node.__class__ is yaml.ScalarNode:
            return self._scalar(node)
        if depth >= MAX_DEPTH:
            raise _too_deep(self.file, node.start_mark)
        if node.__class__ is yaml.SequenceNode:
            self._untagged(node)
            return [self.build(item, depth + 1) for item in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        self._untagged(node)
        built: dict[str, Any] = {}
        for key, item in node.value:
            name = self._key(key)
            if name in built:
                raise self._duplicate(node, key, name)
            built[name] = self.build(item, depth + 1)
        return built

    def _scalar(self, node: Any) -> Any:
        tag = node.tag
        if tag is _TEXT or tag == _TEXT:
            return node.value
        if tag is not _PLAIN and _TAGS.get(tag) is None:
            raise self._tagged(node)
        return plain(node.value)

    def _key(self, node: Any) -> str:
        if node.__class__ is yaml.ScalarNode and node.value != "<<":
            if node.tag is _TEXT or isinstance(plain(node.value), str):
                return str(node.value)
            raise self._at(
                node, "yaml-key", f"the key `{cut(node.value)}` is not text", "", f'quote it: "{node.value}"'
            )
        if node.__class__ is yaml.ScalarNode:
            why = "merge keys are not part of YAML 1.2; readers disagree on what they mean"
            raise self._at(node, "yaml-key", "`<<` merges another mapping", why, "write the fields out")
        raise self._at(
            node, "yaml-key", "a mapping or list as a key", "field names are text", "quote the text, if it is"
        )

    def _untagged(self, node: Any) -> None:
        if node.tag is not _TEXT and node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", _TEXT):
            raise self._tagged(node)

    def _tagged(self, node: Any) -> _Refused:
        why = "tags choose how a reader interprets a value; here every field has one meaning"
        return self._at(node, "yaml-tag", f"the tag `{cut(node.tag)}` is not supported", why, "remove the tag")

    def _duplicate(self, mapping: Any, key: Any, name: str) -> _Refused:
        first = next(k for k, _ in mapping.value if k.value == name)
        return self._at(
            key,
            "yaml-duplicate-key",
            f"`{cut(name)}` is here twice, first at {_at(self.file, first)}",
            "most readers silently take the last one",
            "delete one of the two",
        )

    def _too_many(self, node: Any) -> _Refused:
        why = "aliases (`*name`) repeat what they point to, and a few lines can make millions of values"
        return self._at(node, "yaml-nodes", f"more than {MAX_NODES:,} values", why, "write the values out, or fewer")

    def _at(self, node: Any, code: str, message: str, why: str, fix: str) -> _Refused:
        return _refuse(code, _at(self.file, node), message, why, fix)


def plain(text: str) -> Any:
    """What an unquoted scalar is in YAML 1.2 core: null, a boolean, an integer, a float, or the text itself."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "+-.0123456789":
        return text
    if len(text) > 100:  # text, not minutes of arithmetic
        return text
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text) if _FLOAT.fullmatch(text) else text


# Placeholders: a file that a script was meant to fill in first


def _placeholders(data: bytes, root: Any) -> tuple[tuple[Path, str], ...]:
    if not _MAYBE.search(data):
        return ()
    found = []
    for path, text in _texts(root, ()):
        names = [m[1] for m in _TEMPLATE.finditer(text)]
        whole = _WHOLE_VALUE.fullmatch(text)
        names += [name for name in whole.groups() if name] if whole else []
        found += [(path, name) for name in names]
    return tuple(found)


def _texts(node: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if node.__class__ is yaml.ScalarNode:
        yield path, node.value
    elif node.__class__ is yaml.SequenceNode:
        for index, item in enumerate(node.value):
            yield from _texts(item, (*path, index))
    else:
        for key, item in node.value:
            yield from _texts(item, (*path, key.value))


def _unless_placeholders(data: bytes, file: str, finding: Finding) -> tuple[Finding, ...]:
    """`{{NAME}}` without quotes is a mapping as a key, or no YAML at all: name the placeholders, not the symptom."""
    if finding.code not in ("yaml-syntax", "yaml-key") or b"{{" not in data:
        return (finding,)
    text = _COMMENT.sub(lambda comment: " " * len(comment[0]), data.decode())
    found = [(m[1], _line_column(text, m.start())) for m in _TEMPLATE.finditer(text)]
    return tuple(placeholder(name, Place(file, *at)) for name, at in found[:100]) or (finding,)


def placeholder(name: str, place: Place) -> Finding:
    return Finding(
        "placeholder",
        f"`{cut(name)}` is a placeholder that nobody filled in",
        "the file in git is what is served: there is no templating step after it",
        "commit the file with the value, or run the script that fills it in before committing",
        place,
    )


# Errors


def _syntax(error: yaml.YAMLError, data: bytes, file: str) -> Finding:
    text = data.decode()
    bad = _UNPRINTABLE.search(text)
    if bad:
        place = Place(file, *_line_column(text, bad.start()))
        what = f"the character U+{ord(bad[0]):04X} is not printable"
        return Finding("yaml-unprintable", what, "YAML forbids it outside of escapes", "delete it", place)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or "not YAML"
    place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
    if "but found another document" in problem:
        why = "one file describes one thing"
        return Finding("yaml-documents", "a second document starts here", why, "move it to a file of its own", place)
    line = text.split("\n")[place.line - 1] if mark and place.line <= text.count("\n") + 1 else ""
    if "\t" in line[: place.column + 1]:
        place = Place(file, place.line, line.index("\t") + 1)
        return Finding("yaml-syntax", "a tab", "YAML indents with spaces only", "replace the tab by spaces", place)
    context = getattr(error, "context", None)
    return Finding(
        "yaml-syntax", f"not YAML: {problem}", context or "", "check quotes, brackets and indentation", place
    )


def _refuse(code: str, place: Place, message: str, why: str, fix: str) -> _Refused:
    return _Refused(Finding(code, message, why, fix, place))


def _child(node: Any, part: str | int) -> tuple[Any, Any] | None:
    if isinstance(part, int):
        fits = node.__class__ is yaml.SequenceNode and part < len(node.value)
        return (node.value[part], node.value[part]) if fits else None
    if node.__class__ is not yaml.MappingNode:
        return None
    return next(((key, item) for key, item in node.value if key.value == part), None)


def _at(file: str, node: Any) -> Place:
    return Place(file, node.start_mark.line + 1, node.start_mark.column + 1)


def _line_column(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1
