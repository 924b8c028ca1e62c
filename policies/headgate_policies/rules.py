"""How the values at one path are compared, where the endpoint says so: as a set, as a ranking, as a text, as a number.

    paths:
      $.labels: {as: set}
      $.hits: {as: ranking, by: id, top: 10, least: 0.9}
      $.summary: {as: text, most: 20%}
      $.score: {rel: 0.1}

A distance of 0 is equal, 1 has nothing in common; beyond `most` (of a ranking: an overlap below `least`) they differ.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headgate.params import number, parse, share

MAX_SYMBOLS = 2_000  # of one text: 2 ms; a longer text is compared word by word
MODES = ("set", "ranking", "text", "number")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is written below one path. `as` is a word of Python's, so the field has another name."""

    mode: str  # set | ranking | text | number
    by: str = ""  # set, ranking: the field that tells items apart; empty: the whole item
    top: int = 10  # ranking: so many first items
    least: float = share(0.9)  # ranking: overlap
    most: float = share(0.0)  # set, text: share that may differ
    rel: float | None = number(None, low=0.0)
    abs: float | None = number(None, low=0.0)


def rules(written: Any) -> Mapping[str, Rule]:
    """Path -> rule. Raises ValueError, for a person."""
    if not isinstance(written, dict):
        raise ValueError("`paths` is a mapping of JSON paths to how they are compared")
    return {str(path): _rule(str(path), block) for path, block in written.items()}


def _rule(path: str, block: Any) -> Rule:
    if not isinstance(block, dict):
        raise ValueError(
            f"{path}: write e.g. `{{as: set}}`, `{{as: ranking}}`, `{{as: text, most: 20%}}` or `{{rel: 0.1}}`"
        )
    mode = block.get("as", "number")
    if mode not in MODES:
        raise ValueError(f"{path}: `as: {mode}` is not known: {', '.join(MODES)}")
    taken = {
        "set": ("by", "most"),
        "ranking": ("by", "top", "least"),
        "text": ("most",),
        "number": ("rel", "abs"),
    }[mode]
    odd = [str(key) for key in block if key != "as" and key not in taken]
    if odd:
        raise ValueError(f"{path}: `{odd[0]}` does not go with `as: {mode}`; known are {', '.join(taken)}")
    rule, faults = parse(Rule, {"mode": mode, **{key: value for key, value in block.items() if key != "as"}})
    if rule is None:
        raise ValueError(f"{path}: {'; '.join(map(str, faults))}")
    if mode == "number" and rule.rel is None and rule.abs is None:
        raise ValueError(f"{path}: write `rel` or `abs`")
    if rule.top < 1:
        raise ValueError(f"{path}: `top` is at least 1")
    return rule


def set_distance(stable: Sequence[Any], candidate: Sequence[Any], by: str) -> float:
    """Share of the larger side's items that the other lacks; how often an item occurs counts, where does not."""
    left, right = Counter(_names(stable, by)), Counter(_names(candidate, by))
    larger = max(left.total(), right.total())
    return (larger - (left & right).total()) / larger if larger else 0.0


def overlap(stable: Sequence[Any], candidate: Sequence[Any], by: str, top: int) -> float:
    """Average overlap of the first 1, 2, ... `top` items: 1 when they are the same in the same order.

    Differences at the head weigh most. Source: Fagin, Kumar, Sivakumar, "Comparing top k lists" (2003).
    """
    left, right = _names(stable[:top], by), _names(candidate[:top], by)
    depth = max(len(left), len(right))
    if not depth:
        return 1.0
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    total = 0.0
    for k in range(depth):
        ours.update(left[k : k + 1])
        theirs.update(right[k : k + 1])
        total += (ours & theirs).total() / (k + 1)
    return total / depth


def _names(items: Sequence[Any], by: str) -> list[str]:
    return [_name(item[by] if by and isinstance(item, dict) and by in item else item) for item in items]


def _name(item: Any) -> str:
    """The same text for the same value: keys in order, 1 and 1.0 alike, numbers to 9 significant digits."""
    return json.dumps(_plain(item), sort_keys=True, ensure_ascii=False)


def _plain(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _plain(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_plain(value) for value in item]
    if isinstance(item, float):
        return float(f"{item:.9g}")
    if isinstance(item, int) and not isinstance(item, bool):
        return float(item) if abs(item) < 2**53 else str(item)
    return item


def text_distance(stable: str, candidate: str) -> float | None:
    """Edits (insert, delete, replace) from one to the other, as a share of the longer; by word beyond MAX_SYMBOLS.

    None: too long even by word.
    """
    if stable == candidate:
        return 0.0
    left: Sequence[str] = stable
    right: Sequence[str] = candidate
    if max(len(left), len(right)) > MAX_SYMBOLS:
        left, right = stable.split(), candidate.split()
    longer = max(len(left), len(right), 1)
    return None if longer > MAX_SYMBOLS else edits(left, right) / longer


def edits(left: Sequence[str], right: Sequence[str]) -> int:
    """Levenshtein's distance, a whole column of the table in a few operations on one long integer.

    Source: Myers, "A fast bit-vector algorithm for approximate string matching" (1999), as put by Hyyrö (2003).
    """
    if not left or not right:
        return max(len(left), len(right))
    where: dict[str, int] = {}
    for index, symbol in enumerate(left):
        where[symbol] = where.get(symbol, 0) | 1 << index
    mask, last = (1 << len(left)) - 1, 1 << (len(left) - 1)
    more, less, distance = mask, 0, len(left)  # cells one more, or one less, than the cell above
    for symbol in right:
        equal = where.get(symbol, 0)
        diagonal = (((equal & more) + more) ^ more) | equal | less
        rises = less | (~(diagonal | more) & mask)
        falls = more & diagonal
        distance += 1 if rises & last else -1 if falls & last else 0
        rises = (rises << 1 | 1) & mask
        falls = falls << 1 & mask
        more = falls | (~(diagonal | rises) & mask)
        less = rises & diagonal
    return distance
