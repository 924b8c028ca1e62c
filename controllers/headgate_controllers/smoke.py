"""The smoke request: one real request to a replica that was started alone, judged by the smoke gate and kept.

What keeps the request from being asked at all is no verdict: a connection that does not come about, a certificate that
one side refuses. Each is asked again until it can be.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from headgate import codec
from headgate.evidence import Answer, Look, Pair, PairKind, Result, Verdict
from headgate.fault import Fault, Held
from headgate.findings import FindingsError, TransientError
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


class NotAsked(TransientError):
    """The request did not get to the model, which is no fault of the deployment."""

    def __init__(self, fault: Fault, said: str) -> None:
        super().__init__(said)
        self.held = Held(fault, said)


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
        NotAsked: it cannot be asked now.
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
    context = _context(certificate) if secure else False
    named: dict[str, Any] = {"sni_hostname": identity.NAME} if secure else {}
    try:
        with httpx.Client(timeout=seconds, trust_env=False, verify=context) as client:
            if secure:
                _greet(client, address, named)
            with client.stream(
                "POST",
                address + deployment.source.scoring_path,
                content=sample,
                headers={"content-type": "application/json", "headgate-mirror": "smoke"},
                extensions=named,
            ) as answer:
                text, cut = _read(answer)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise _unmet(error) from error
    except httpx.TimeoutException:
        return _unasked(Result.FAIL, f"no answer to the sample request within {seconds:g} s"), None
    except httpx.HTTPError as error:
        return _unasked(Result.FAIL, f"the sample request broke off: {error or type(error).__name__}"), None
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


def _context(certificate: Path | None) -> ssl.SSLContext:
    try:
        return identity.client(certificate or Path())
    except FindingsError as error:
        raise NotAsked(Fault.CERTIFICATES, f"models-tls: {error.findings[0].message}") from error


def _greet(client: httpx.Client, address: str, named: Mapping[str, Any]) -> None:
    """In TLS 1.3 a client's handshake ends before the server has looked at its certificate: a first answer tells. What
    breaks off after it is not about certificates."""
    try:
        client.get(f"{address}/", extensions=dict(named))
    except (httpx.ConnectError, httpx.TimeoutException) as error:
        raise _unmet(error) from error
    except httpx.HTTPError as error:
        said = "upstream-tls: it ended the handshake: it does not take the controller's certificate, or it ends"
        raise NotAsked(Fault.CERTIFICATES, said) from error


def _unmet(error: httpx.HTTPError) -> NotAsked:
    if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
        return NotAsked(Fault.CERTIFICATES, f"upstream-tls: its certificate was refused: {error}")
    said = f"the controller gets no connection to a replica that is ready: {error or type(error).__name__}"
    return NotAsked(Fault.UNREACHABLE, said)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def again(look: Look) -> Verdict:
    """The verdict of an answer that is kept: the same bytes each time."""
    said = look.pairs[0].copy
    judged = judge_smoke(said.status, said.media_type, said.body)
    return _about(said.revision, replace(judged, looks=1, evidence=codec.digest(look)))


def _unasked(result: Result, explanation: str) -> Verdict:
    return Verdict(PHASE, VERSION, PHASE, {}, 0.0, result, explanation)
