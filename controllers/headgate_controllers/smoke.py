"""The smoke request: one real request to a replica that was started alone, judged by the smoke gate and kept."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from headgate import codec
from headgate.evidence import Answer, Look, Pair, PairKind, Result, Verdict
from headgate.target import DeploymentTarget
from headgate_kit import identity
from headgate_policies.gates.smoke import VERSION, judge_smoke

REQUEST_LIMIT = 10_000_000  # bytes of a sample request
ANSWER_LIMIT = 1_000_000  # characters of an answer that are looked at
KEPT = 64 * 1024  # characters of an answer that is kept as evidence
PHASE = "smoke"


def ask(
    address: str,
    deployment: DeploymentTarget,
    sample: bytes | None,
    *,
    quoted: bool = True,
    certificate: Path | None = None,
) -> tuple[Verdict, Look | None]:
    """Sends the sample request. Without one, readiness was all there is to test, and the verdict says so.

    Args:
        quoted: whether the answer may be shown in parts, and kept: not where the endpoint redacts.
        certificate: folder of what is shown to a replica that asks for mutual TLS.
    Raises:
        FindingsError: that certificate cannot be used, which is no fault of the deployment.
    Returns:
        The verdict, and the evidence that it is `again` of; None: there was no answer, or it is not kept.
    """
    verdict, look = _asked(address, deployment, sample, quoted, certificate)
    return _about(deployment.revision, verdict), look


def _about(revision: str, verdict: Verdict) -> Verdict:
    """One op smokes several revisions: each verdict says whose it is."""
    return replace(verdict, parameters={"revision": revision})


def _asked(
    address: str, deployment: DeploymentTarget, sample: bytes | None, quoted: bool, certificate: Path | None
) -> tuple[Verdict, Look | None]:
    if sample is None:
        return _unasked(Result.PASS, "started alone and got ready; there is no sample request to ask"), None
    seconds = deployment.run.request_timeout_ms / 1000
    secure = address.startswith("https:")
    context: ssl.SSLContext | bool = identity.client(certificate or Path()) if secure else False
    named: dict[str, Any] = {"sni_hostname": identity.NAME} if secure else {}
    try:
        with httpx.Client(timeout=seconds, trust_env=False, verify=context) as client:
            answer = client.post(
                address + deployment.source.scoring_path,
                content=sample,
                headers={"content-type": "application/json", "headgate-mirror": "smoke"},
                extensions=named,
            )
    except httpx.TimeoutException:
        return _unasked(Result.FAIL, f"no answer to the sample request within {seconds:g} s"), None
    except httpx.HTTPError as error:
        why = f"the sample request broke off: {error or type(error).__name__}"
        if secure and isinstance(error, httpx.ConnectError):
            why = f"upstream-tls: its certificate was refused: {error}"
        elif secure:
            why += "; where its log says nothing of it, it does not take the controller's certificate (upstream-tls)"
        return _unasked(Result.FAIL, why), None
    media_type, text = answer.headers.get("content-type", ""), answer.text
    if quoted and len(text) <= KEPT:
        said = Answer(deployment.revision, answer.status_code, media_type, text)
        look = Look(PHASE, 0, 0.0, 0.0, pairs=(Pair(PairKind.COMPARE, PHASE, said, said),))
        return again(look), look
    cut = len(text) > ANSWER_LIMIT
    return judge_smoke(answer.status_code, media_type, text[:ANSWER_LIMIT], truncated=cut, quoted=quoted), None


def again(look: Look) -> Verdict:
    """The verdict of an answer that is kept: the same bytes each time."""
    said = look.pairs[0].copy
    judged = judge_smoke(said.status, said.media_type, said.body)
    return _about(said.revision, replace(judged, looks=1, evidence=codec.digest(look)))


def _unasked(result: Result, explanation: str) -> Verdict:
    return Verdict(PHASE, VERSION, PHASE, {}, 0.0, result, explanation)
