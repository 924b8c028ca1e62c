"""The smoke request: one real request to a replica that was started alone, judged by the smoke gate."""

from __future__ import annotations

import httpx

from headgate.evidence import Result, Verdict
from headgate.target import DeploymentTarget
from headgate_policies.gates.smoke import judge_smoke

REQUEST_LIMIT = 10_000_000  # bytes of a sample request
ANSWER_LIMIT = 1_000_000  # characters of an answer that are looked at


def ask(address: str, deployment: DeploymentTarget, sample: bytes | None, *, quoted: bool = True) -> Verdict:
    """Sends the sample request. Without one, readiness was all there is to test, and the verdict says so.

    `quoted`: whether the verdict may show parts of the answer: not where the endpoint redacts them.
    """
    if sample is None:
        return Verdict(
            gate="smoke",
            version="1",
            phase="smoke",
            parameters={},
            alpha=0.0,
            result=Result.PASS,
            explanation="started alone and got ready; there is no sample request to ask",
        )
    seconds = deployment.run.request_timeout_ms / 1000
    try:
        with httpx.Client(timeout=seconds, trust_env=False) as client:
            answer = client.post(
                address + deployment.source.scoring_path,
                content=sample,
                headers={"content-type": "application/json", "headgate-mirror": "smoke"},
            )
    except httpx.TimeoutException:
        return _failed(f"no answer to the sample request within {seconds:g} s")
    except httpx.HTTPError as error:
        return _failed(f"the sample request broke off: {error or type(error).__name__}")
    media_type, text = answer.headers.get("content-type", ""), answer.text
    cut = len(text) > ANSWER_LIMIT
    return judge_smoke(answer.status_code, media_type, text[:ANSWER_LIMIT], truncated=cut, quoted=quoted)


def _failed(explanation: str) -> Verdict:
    return Verdict("smoke", "1", "smoke", {}, 0.0, Result.FAIL, explanation)
