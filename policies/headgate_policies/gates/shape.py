"""Do the candidate's answers have the shape that callers rely on? New or missing fields, other types; never values.

The shape is what the stable showed in earlier looks, or a JSON Schema that the endpoint declares. Learnt: in each look
the candidate's answers and the stable's own are held against the *same* shape, so a field that comes and goes by itself
stops nobody; the candidate may deviate in at most `max_share` more answers than the stable. Declared: at most in
`max_share` of its answers, whatever the stable does. Answers other than 2xx are the error rate's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headgate.evidence import Answer, Detection, Difference, Look, Need, PairKind, Result, Traffic, Verdict
from headgate.params import Fault, ParameterError, count, share
from headgate_policies.compare import MAX_CHARACTERS, Tolerance, TooMuch, cut, generalised, media_type, read_json
from headgate_policies.noise import MAX_PATHS, Noise
from headgate_policies.rates import RateTest, Sample, detection
from headgate_policies.shapes import Deviation, Schema, Shape
from headgate_policies.sitting import Opinion, Sitting, judged
from headgate_policies.wording import part, percent

SHOWN = 10  # differences in a verdict


@dataclass(frozen=True, slots=True)
class ShapeParams:
    schema: Any = None  # a JSON Schema, or `{file: PATH}` of one; None: the shape is learnt from the stable
    max_share: float = share(0.01, low=0.0005, high=0.9)  # of answers that may deviate (more than the stable's do)
    ignore: tuple[str, ...] = ()  # JSON paths, with everything below: `$.meta`, `$.items[*].id`
    learn: int = count(20, low=1)  # answers of the stable that teach before any is judged; declared: none
    noisy: float = share(0.05, low=0.001)  # what the stable does in this share of its answers is its habit
    min_answers: int = count(50)  # candidate answers before a pass
    min_comparable: float = share(0.5)  # least share of answers that could be read
    confidence: float = share(0.95, low=0.5, high=0.999999)  # that a pass is right

    def __post_init__(self) -> None:
        if self.schema is not None:
            try:
                Schema(self.schema)
            except ValueError as error:
                raise ParameterError(Fault("schema", str(error))) from error


class ShapeGate:
    version = "2"
    params = ShapeParams

    def needs(self, params: ShapeParams) -> Sequence[Need]:
        return (Need("pairs", ("mirror",)),)

    def judge(self, params: ShapeParams, looks: Sequence[Look], alpha: float) -> Verdict:
        return judged(self.sitting(params, alpha), looks)

    def sitting(self, params: ShapeParams, alpha: float) -> Sitting:
        return _ShapeSitting(params, alpha)

    def power(self, params: ShapeParams, traffic: Traffic, alpha: float) -> Detection | None:
        effect = 3 * params.max_share
        return detection(f"another shape in {percent(effect)} of answers", 0.0, effect, params.max_share, alpha)


@dataclass(slots=True)
class _Tally:
    first: Deviation
    answers: int = 0


@dataclass(slots=True)
class _Heard:
    """One look: answers that could be read, and how they deviate, of each arm."""

    candidate: list[list[Deviation]] = field(default_factory=list)
    stable: list[list[Deviation]] = field(default_factory=list)
    lessons: list[Any] = field(default_factory=list)


class _ShapeSitting(Sitting):
    def __init__(self, params: ShapeParams, alpha: float) -> None:
        super().__init__("schema", ShapeGate.version, params, alpha)
        self._own = params
        self._ignore = Tolerance(ignore=tuple(generalised(path) for path in params.ignore))
        self._schema = Schema(params.schema) if params.schema is not None else None
        self._shape = Shape()
        self._noise = Noise(params.noisy)
        self._habits: dict[str, float] = {}
        self._json = 0  # answers of the stable that were JSON
        self._other = 0  # and that were not
        self._unread: Counter[str] = Counter()
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._test = RateTest(
            params.max_share,
            alpha=alpha,
            confidence=params.confidence,
            ceiling=None if self._schema is None else params.max_share,
            reference=None if self._schema is None else Sample(),
        )

    @property
    def _learning(self) -> bool:
        return self._schema is None and self._shape.answers < self._own.learn

    def _take(self, look: Look) -> None:
        """Both arms are held against what was known before the look; then it teaches. The first looks only teach."""
        learning = self._learning
        heard = self._hear(look)
        self._habits = dict(self._noise.excluded())
        candidates = [self._unusual(found) for found in heard.candidate]
        stables = [self._unusual(found) for found in heard.stable]
        if not learning:
            for found in candidates:
                self._remember(found)
            stable = Sample() if self._schema else Sample(stables=len(stables), stable_bad=sum(map(bool, stables)))
            self._test.add(Sample(len(candidates), sum(map(bool, candidates))) + stable, self._fresh)
        for value in heard.lessons:
            self._learn(value)
        for kind, arm in ((PairKind.COMPARE, heard.candidate), (PairKind.ECHO, heard.stable)):
            for found in arm:
                self._noise.learn(kind, {each.group for each in found})

    def _hear(self, look: Look) -> _Heard:
        heard = _Heard()
        for pair in sorted(look.pairs, key=lambda p: (p.request_id, p.kind, p.live.body, p.copy.body, p.copy.status)):
            if pair.kind is PairKind.COMPARE:
                self._read(pair.live, heard.stable, heard.lessons)
                self._read(pair.copy, heard.candidate, None)
        return heard

    def _read(self, answer: Answer, arm: list[list[Deviation]], lessons: list[Any] | None) -> None:
        """One answer; `lessons` when it is the stable's."""
        is_candidate = lessons is None
        reason = _unreadable(answer)
        if reason:
            self._unread[reason] += int(is_candidate)
            return
        is_json = "json" in media_type(answer.media_type)
        expects_json = self._schema is not None or self._json >= self._other
        if lessons is not None:
            self._json += int(is_json)
            self._other += int(not is_json)
        try:
            value = read_json(answer.body) if is_json else None
            if is_json and lessons is not None and self._schema is None:
                lessons.append(value)
            arm.append(self._deviations(value, answer, is_json=is_json, expects_json=expects_json))
        except json.JSONDecodeError:
            arm.append([Deviation("$", "invalid-json", "$ invalid-json", "JSON", cut(answer.body))])
        except TooMuch as error:
            self._unread[str(error)] += int(is_candidate)

    def _deviations(self, value: Any, answer: Answer, *, is_json: bool, expects_json: bool) -> list[Deviation]:
        if is_json != expects_json:
            kind = media_type(answer.media_type) or "none"
            expected = "JSON" if expects_json else "no JSON"
            return [Deviation("$", "media-type", "$ media-type", expected, kind)]
        if not is_json:
            return []
        return self._schema.deviations(value) if self._schema else self._shape.deviations(value)

    def _learn(self, value: Any) -> None:
        try:
            self._shape.learn(value)
        except TooMuch as error:
            self._unread[str(error)] += 1

    def _unusual(self, found: Sequence[Deviation]) -> list[Deviation]:
        """Without what is ignored, and, learnt, without the stable's own habits."""
        habits = {} if self._schema else self._habits
        return [each for each in found if each.group not in habits and not self._ignore.ignores(each.path)]

    def _remember(self, found: Sequence[Deviation]) -> None:
        for each in found:
            key = (each.path, each.kind)
            if key not in self._tallies and len(self._tallies) < MAX_PATHS:
                self._tallies[key] = _Tally(each)
            if key in self._tallies:
                self._tallies[key].answers += 1

    def _opinion(self) -> Opinion:
        figures = {
            **self._test.figures,
            "answers": float(self._test.total.candidates),
            "answers_deviating": float(self._test.total.candidate_bad),
            "not_readable": float(sum(self._unread.values())),
        }
        if self._schema is None:
            figures["learnt_from"] = float(self._shape.answers)
        seen, differences = self._seen(), self._differences()
        if self._test.result is Result.FAIL:
            worst = differences[0] if differences else None
            said = f"; {worst.path} ({worst.kind}): {worst.stable} became {worst.candidate}" if worst else ""
            return Opinion(Result.FAIL, f"{seen}{said}", figures, differences=differences)
        missing = self._missing()
        if missing:
            return Opinion(Result.INCONCLUSIVE, f"{seen}; not enough to say", figures, missing, differences)
        sure = f"{percent(self._own.max_share)} or more is ruled out ({percent(self._own.confidence)} sure)"
        return Opinion(Result.PASS, f"{seen}; {sure}", figures, differences=differences)

    def _missing(self) -> str:
        """What keeps it from passing; empty: nothing."""
        read, unread = self._test.total.candidates, sum(self._unread.values())
        if read + unread and read / (read + unread) < self._own.min_comparable:
            reason = min(self._unread, key=lambda why: (-self._unread[why], why))
            return f"answers that can be read: {part(unread, read + unread)} cannot, mostly because {reason}"
        if self._learning:
            return f"{self._own.learn - self._shape.answers} more JSON answers of the stable to learn its shape"
        short = self._own.min_answers - read
        if self._test.result is not Result.PASS:
            wanted = self._test.needed()
            return self._more(None if wanted is None else max(wanted, short), read, "pairs of answers")
        return self._more(short, read, "pairs of answers") if short > 0 else ""

    def _seen(self) -> str:
        total = self._test.total
        deviate = f"{part(total.candidate_bad, total.candidates)} candidate answers have another shape"
        if self._schema is not None:
            against = f"than the declared schema, tolerated {percent(self._own.max_share)}"
        else:
            own = part(total.stable_bad, total.stables)
            learnt = f"learnt from {self._shape.answers:,} of the stable's"
            against = f"than the one {learnt}; {own} of the stable's own do, {percent(self._own.max_share)} more may"
        habits = [f"{group} ({percent(seen)})" for group, seen in self._habits.items()] if not self._schema else []
        left_out = f"; the stable's habits: {', '.join(habits[:3])}" if habits else ""
        return f"{deviate} {against}{left_out}"

    def _differences(self) -> tuple[Difference, ...]:
        total = max(1, self._test.total.candidates)
        found = [
            Difference(t.first.path, t.first.kind, round(t.answers / total, 9), t.first.expected, t.first.found)
            for t in self._tallies.values()
            if self._schema is not None or t.first.group not in self._habits
        ]
        return tuple(sorted(found, key=lambda each: (-each.share, each.path, each.kind))[:SHOWN])


def _unreadable(answer: Answer) -> str:
    if not 200 <= answer.status < 300:
        return "it was not answered 2xx"
    if answer.cut:
        return "the answer was cut or is not UTF-8"
    return f"the answer is longer than {MAX_CHARACTERS:,} characters" if len(answer.body) > MAX_CHARACTERS else ""


gate = ShapeGate()
