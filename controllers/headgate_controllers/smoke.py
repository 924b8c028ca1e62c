"""The smoke request: one real request to a replica that was started alone, judged by the smoke gate and kept."""

from __future__ import annotations

import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from headgate import codec
from headgate.evidence import Answer, Look, Pair, PairKind, Result, Verdict
from headgate.reading import MAX_SAMPLE
from headgate.target import DeploymentTarget
from headgate_kit import identity
from headgate_policies.gates.smoke import VERSION, judge_smoke

REQUEST_LIMIT = MAX_SAMPLE
ANSWER_LIMIT = 1_000_000  # characters of an answer that are looked at
READ_LIMIT = 4 * ANSWER_LIMIT  # bytes of it that are read
READ_S = 60.0  # seconds for which it is read, once it has begun: a stream may have no end
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
        with (
            httpx.Client(timeout=seconds, trust_env=False, verify=context) as client,
            client.stream(
                "POST",
                address + deployment.source.scoring_path,
                content=sample,
                headers={"content-type": "application/json", "headgate-mirror": "smoke"},
                extensions=named,
            ) as answer,
        ):
            text, cut = _read(answer)
    except httpx.TimeoutException:
        return _unasked(Result.FAIL, f"no answer to the sample request within {seconds:g} s"), None
    except httpx.HTTPError as error:
        why = f"the sample request broke off: {error or type(error).__name__}"
        if secure and isinstance(error, httpx.ConnectError):
            why = f"upstream-tls: its certificate was refused: {error}"
        elif secure:
            why += "; where its log says nothing of it, it does not take the controller's certificate (upstream-tls)"
        return _unasked(Result.FAIL, why), None
    media_type = answer.headers.get("content-type", "")
    if quoted and not cut and len(text) <= KEPT:
        said = Answer(deployment.revision, answer.status_code, media_type, text)
        look = Look(PHASE, 0, 0.0, 0.0, pairs=(Pair(PairKind.COMPARE, PHASE, said, said),))
        return again(look), look
    cut = cut or len(text) > ANSWER_LIMIT
    return judge_smoke(answer.status_code, media_type, text[:ANSWER_LIMIT], truncated=cut, quoted=quoted), None


def _read(answer: httpx.Response) -> tuple[str, bool]:
    """The answer's text, as much of it as is looked at, and whether it goes on."""
    ends = time.monotonic() + READ_S
    body = bytearray()
    cut = False
    for chunk in answer.iter_bytes():
        body += chunk
        cut = len(body) > READ_LIMIT or time.monotonic() >= ends
        if cut:
            break
    return body.decode(answer.encoding or "utf-8", errors="replace"), cut


def again(look: Look) -> Verdict:
    """The verdict of an answer that is kept: the same bytes each time."""
    said = look.pairs[0].copy
    judged = judge_smoke(said.status, said.media_type, said.body)
    return _about(said.revision, replace(judged, looks=1, evidence=codec.digest(look)))


def _unasked(result: Result, explanation: str) -> Verdict:
    return Verdict(PHASE, VERSION, PHASE, {}, 0.0, result, explanation)
