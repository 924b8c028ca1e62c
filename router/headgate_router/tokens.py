"""Signed tokens: whether one is genuine, not expired, for us and for what it asks. Public keys only.

A token that was verified is remembered by its digest until it expires: a signature costs as much as passing on five
requests. Refuses every algorithm but four, all of them asymmetric: a router holds nothing that could sign.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

log = logging.getLogger("headgate.router")

ALGORITHMS = ("RS256", "PS256", "ES256", "Ed25519")
SKEW_S = 60  # by which clocks may differ
MAX_REMEMBERED = 4096  # tokens, per endpoint


@dataclass(frozen=True, slots=True)
class Rules:
    issuer: str
    audience: tuple[str, ...]  # one of them
    claims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # each holds one of its values


class Verifier:
    """Of one endpoint. Not thread-safe: one event loop.

    Args:
        keys: the public keys as they are now; None: not known yet.
        strange: told when a token names a key that is not among them.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        rules: Rules,
        keys: Callable[[], KeySet | None],
        clock: Callable[[], float],
        strange: Callable[[], None] = lambda: None,
    ) -> None:
        self._rules = rules
        self._keys = keys
        self._clock = clock
        self._strange = strange
        self._verified_by: KeySet | None = None
        self._until: dict[bytes, float] = {}  # digest of a verified token -> when it expires, skew included

    def accepts(self, token: bytes) -> bool | None:
        """None: it cannot be told, for the issuer's keys are not known yet."""
        keys = self._keys()
        if keys is None:
            return None
        if keys is not self._verified_by:  # what a withdrawn key had signed is verified again
            self._verified_by = keys
            self._until.clear()
        digest = hashlib.sha256(token).digest()
        until = self._until.get(digest)
        if until is not None:
            return self._clock() < until
        until = self._verified(token, keys)
        if until is None:
            return False
        if len(self._until) >= MAX_REMEMBERED:
            self._until.clear()
        self._until[digest] = until
        return True

    def _verified(self, token: bytes, keys: KeySet) -> float | None:
        """Until when; None: refused. The reason stays here: it would help only whoever tries."""
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError, JoseError
        from joserfc.jws import extract_compact

        now = self._clock()
        rules = self._rules
        registry = jwt.JWTClaimsRegistry(
            now=int(now),
            leeway=SKEW_S,
            iss={"essential": True, "value": rules.issuer},
            aud={"essential": True, "values": list(rules.audience)},
            exp={"essential": True},
        )
        try:
            if not isinstance(extract_compact(token).headers().get("kid"), str):
                return None  # without a name any key might be tried
            claims = jwt.decode(token, keys, algorithms=list(ALGORITHMS)).claims
            registry.validate(claims)
        except InvalidKeyIdError:
            self._strange()
            return None
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            log.debug("a token is refused: %s", type(error).__name__)
            return None
        return float(claims["exp"]) + SKEW_S if self._allowed(claims) else None

    def _allowed(self, claims: Mapping[str, Any]) -> bool:
        return all(set(_texts(claims.get(name))) & set(values) for name, values in self._rules.claims.items())


def _texts(claim: Any) -> Sequence[str]:
    """A claim is a text or a list of texts; `scp` and `scope` are texts with spaces between, as OAuth writes them."""
    if isinstance(claim, str):
        return (claim, *claim.split())
    return [item for item in claim if isinstance(item, str)] if isinstance(claim, list) else ()


def key_set(keys: Sequence[Mapping[str, Any]]) -> KeySet:
    """The usable ones of a JWKS: public, asymmetric, meant to sign, with a name; of a private one its public half."""
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry, KeySet

    usable = []
    for entry in keys:
        named = isinstance(entry.get("kid"), str) and entry.get("use", "sig") == "sig"
        if not named or entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        public = {name: value for name, value in entry.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
        try:
            usable.append(JWKRegistry.import_key(public))
        except (JoseError, ValueError, TypeError, KeyError) as error:
            log.warning("a key of a token issuer cannot be used: %s", type(error).__name__)
    return KeySet(usable)
