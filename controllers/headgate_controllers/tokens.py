"""Short-lived tokens for callers of an endpoint: signed here, verified by every router with the public key alone.

One Ed25519 key pair an endpoint, in the secret store. A token says for which endpoint, for whom and until when, and
nothing else. Refuses to keep tokens: a new key pair is what takes all of an endpoint's tokens back.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headgate.control import TOKEN_ISSUER
from headgate.findings import Finding, Place
from headgate.ports import Secrets

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey

ALGORITHM = "Ed25519"
MIN_TTL_S, MAX_TTL_S = 60, 24 * 3600  # Azure's live for hours; a key is what lives longer


@dataclass(frozen=True, slots=True)
class Issued:
    token: str = field(repr=False)
    expires_at: int  # Unix time, seconds


class Signers:
    """Thread-safe. `clock` is Unix time in seconds."""

    def __init__(self, secrets: Secrets, clock: Callable[[], float]) -> None:
        self._secrets = secrets
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, OKPKey] = {}

    def public(self, endpoint: str) -> tuple[str, ...]:
        """What routers verify with: one JWK as JSON. Makes the key pair the first time."""
        key = self._key(endpoint)
        return (json.dumps({**key.as_dict(private=False), "kid": key.thumbprint()}, sort_keys=True),)

    def issue(self, endpoint: str, ttl_s: int, who: str) -> Issued:
        """Raises ValueError: it would live too long, or not long enough to be used."""
        from joserfc import jwt

        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            raise ValueError(f"a token lives {MIN_TTL_S} s to {MAX_TTL_S // 3600} h, not {ttl_s} s")
        key, now = self._key(endpoint), int(self._clock())
        claims = {"iss": TOKEN_ISSUER, "aud": endpoint, "sub": who, "iat": now, "exp": now + ttl_s}
        head = {"alg": ALGORITHM, "kid": key.thumbprint()}
        return Issued(jwt.encode(head, claims, key, algorithms=[ALGORITHM]), now + ttl_s)

    def replace(self, endpoint: str) -> None:
        """A new key pair: routers refuse every token issued before, once they have the next table."""
        with self._lock:
            self._keys[endpoint] = self._made(endpoint)

    def _key(self, endpoint: str) -> OKPKey:
        from joserfc.jwk import OKPKey

        with self._lock:
            known = self._keys.get(endpoint)
            if known is None:
                try:
                    known = OKPKey.import_key(json.loads(self._secrets.get(_ref(endpoint))))
                except LookupError:
                    known = self._made(endpoint)
                self._keys[endpoint] = known
            return known

    def _made(self, endpoint: str) -> OKPKey:
        from joserfc.jwk import OKPKey

        key = OKPKey.generate_key("Ed25519")
        self._secrets.put(_ref(endpoint), json.dumps(key.as_dict(private=True)))
        return key


def wrong_mode(endpoint: str, mode: str) -> Finding:
    """Asked for one kind of credential where another is taken."""
    takes, fix = {
        "key": ("keys", f"`headgate keys show {endpoint}` prints them"),
        "aml_token": ("signed tokens", f"`headgate keys token {endpoint}` issues one"),
    }.get(mode, ("tokens of the issuer in headgate.yml", "ask that issuer for a token"))
    return Finding(
        code="auth-mode",
        message=f"{endpoint} takes {takes}",
        why=f"its endpoint.yml says `auth_mode: {mode}`, and routers refuse everything else",
        fix=fix,
        place=Place(f"endpoint {endpoint}"),
    )


def _ref(endpoint: str) -> str:
    return f"token-signer/{endpoint}"
