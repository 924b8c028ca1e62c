"""Has the candidate been asked often enough to say anything? Always judged, beside whatever gates rollout.yml names.

Without it a rollout without gates would pass on silence. It can only hold: it never fails anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from headgate.evidence import Look, Result
from headgate_policies.sitting import Opinion, Sitting

NAME = "minimum-evidence"


@dataclass(frozen=True, slots=True)
class MinimumParams:
    min_requests: int = 50


class Minimum(Sitting):
    def __init__(self, params: MinimumParams) -> None:
        super().__init__(NAME, "1", params, 0.0)
        self._least = params.min_requests
        self._requests = 0

    def _take(self, look: Look) -> None:
        self._requests += look.candidate.requests

    def _result(self) -> Result:
        return Result.PASS if self._looks and self._requests >= max(1, self._least) else Result.INCONCLUSIVE

    def _opinion(self) -> Opinion:
        figures = {"candidate_requests": float(self._requests)}
        seen = f"{self._requests:,} candidate requests were seen; at least {self._least:,} are wanted"
        if self._result() is Result.PASS:
            return Opinion(Result.PASS, seen, figures)
        return Opinion(
            Result.INCONCLUSIVE, seen, figures, self._more(max(1, self._least - self._requests), self._requests)
        )
