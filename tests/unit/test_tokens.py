"""Tokens as the controller signs them and as a router takes them: only the genuine, only in time, only for us."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from headgate.table import EndpointRoute
from headgate_controllers.tokens import Signers
from headgate_router import auth
from headgate_router.oidc import Issuers
from headgate_router.refusals import UNAUTHORIZED
from headgate_router.tokens import Rules, Verifier, key_set

NOW = 1_700_000_000.0
RULES = Rules("https://idp", ("api://scoring",), {"roles": ("scorer", "admin")})


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


class Store:
    """The `Secrets` port in memory; its adapters on disk and in a cluster have tests of their own."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, ref: str) -> str:
        if ref not in self.values:
            raise LookupError(ref)
        return self.values[ref]

    def put(self, ref: str, value: str) -> None:
        self.values[ref] = value


# Those of ours: signed by the controller, taken by a route's door.


def door(signers: Signers, clock: Clock, endpoint: str = "fraud") -> auth.Door:
    route = EndpointRoute(endpoint, 1, "c", (), auth_mode="aml_token", signers=signers.public(endpoint))
    return auth.door(route, Issuers(), clock)


def bearer(token: str) -> list[bytes]:
    return [f"Bearer {token}".encode()]


def test_a_token_is_taken_until_it_expires_and_not_after() -> None:
    clock = Clock()
    signers = Signers(Store(), clock)
    issued = signers.issue("fraud", 3600, "ada")
    entrance = door(signers, clock)
    assert issued.expires_at == NOW + 3600
    assert entrance.refuses(bearer(issued.token)) is None
    clock.now = NOW + 3600 + 59
    assert entrance.refuses(bearer(issued.token)) is None, "clocks differ by up to a minute"
    clock.now = NOW + 3600 + 61
    assert entrance.refuses(bearer(issued.token)) is UNAUTHORIZED, "also when it was verified before"
    assert door(signers, clock).refuses(bearer(issued.token)) is UNAUTHORIZED


def test_a_token_of_one_endpoint_opens_no_other() -> None:
    clock = Clock()
    signers = Signers(Store(), clock)
    token = signers.issue("churn", 3600, "ada").token
    assert door(signers, clock, "churn").refuses(bearer(token)) is None
    assert door(signers, clock, "fraud").refuses(bearer(token)) is UNAUTHORIZED


def test_a_new_key_pair_takes_every_token_back_and_a_restart_does_not() -> None:
    clock, store = Clock(), Store()
    token = Signers(store, clock).issue("fraud", 3600, "ada").token
    restarted = Signers(store, clock)
    assert door(restarted, clock).refuses(bearer(token)) is None
    restarted.replace("fraud")
    assert door(restarted, clock).refuses(bearer(token)) is UNAUTHORIZED
    assert door(Signers(store, clock), clock).refuses(bearer(restarted.issue("fraud", 60, "ada").token)) is None


def test_routers_are_given_nothing_that_signs() -> None:
    signers = Signers(Store(), Clock())
    (public,) = signers.public("fraud")
    assert set(json.loads(public)) == {"crv", "kid", "kty", "x"}
    assert "token" not in repr(signers.issue("fraud", 60, "ada")).replace("token-signer", "")


@pytest.mark.parametrize("ttl_s", [0, 59, 86_401])
def test_a_token_that_lives_too_long_or_not_at_all_is_not_issued(ttl_s: int) -> None:
    with pytest.raises(ValueError, match="60 s to 24 h"):
        Signers(Store(), Clock()).issue("fraud", ttl_s, "ada")


def test_a_key_opens_no_door_for_tokens_and_two_credentials_none() -> None:
    clock = Clock()
    signers = Signers(Store(), clock)
    token = bearer(signers.issue("fraud", 3600, "ada").token)
    entrance = door(signers, clock)
    for given in ([], [b"Bearer"], [b"Bearer "], [b"Basic eDp5"], bearer("hg_key"), token * 2, bearer("a.b.c" * 3000)):
        assert entrance.refuses(given) is UNAUTHORIZED


def test_a_mode_nobody_knows_opens_to_nobody() -> None:
    route = EndpointRoute("fraud", 1, "c", (), auth_mode="magic", keys=("ab" * 32,))
    assert auth.door(route, Issuers()).refuses(bearer("x")) is UNAUTHORIZED
    without = EndpointRoute("fraud", 1, "c", (), auth_mode="aad_token")
    assert auth.door(without, Issuers()).refuses(bearer("x")) is UNAUTHORIZED


# Those of another issuer.

RSA, EC, ED = RSAKey.generate_key(2048), ECKey.generate_key("P-256"), OKPKey.generate_key("Ed25519")
SIGNS: Mapping[str, Any] = {"RS256": RSA, "PS256": RSA, "ES256": EC, "Ed25519": ED}
GOOD = {"iss": "https://idp", "aud": "api://scoring", "exp": int(NOW) + 600, "roles": ["scorer"]}


def listed(key: Any, **more: str) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": key.thumbprint(), **more}


def signed(claims: Mapping[str, Any], alg: str = "RS256", key: Any = None, **head: Any) -> bytes:
    key = key or SIGNS[alg]
    head = {"alg": alg, "kid": key.thumbprint(), **head}
    return jwt.encode({k: v for k, v in head.items() if v is not None}, dict(claims), key, algorithms=[alg]).encode()


def verifier(keys: KeySet | None = None) -> Verifier:
    known = keys or key_set([listed(RSA, use="sig"), listed(EC), listed(ED)])
    return Verifier(RULES, lambda: known, Clock())


@pytest.mark.parametrize("alg", SIGNS)
def test_each_algorithm_taken(alg: str) -> None:
    assert verifier().accepts(signed(GOOD, alg))


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        pytest.param({"aud": ["other", "api://scoring"]}, True, id="one-of-several-audiences"),
        pytest.param({"roles": "admin"}, True, id="a-claim-that-is-a-text"),
        pytest.param({"roles": "reader scorer"}, True, id="scopes-as-oauth-writes-them"),
        pytest.param({"nbf": NOW - 10}, True, id="valid-since"),
        pytest.param({"exp": int(NOW) - 30}, True, id="expired-within-the-skew"),
        pytest.param({"exp": int(NOW) - 61}, False, id="expired"),
        pytest.param({"exp": None}, False, id="no-expiry"),
        pytest.param({"exp": "soon"}, False, id="an-expiry-that-is-a-text"),
        pytest.param({"nbf": int(NOW) + 600}, False, id="not-yet-valid"),
        pytest.param({"iss": "https://evil"}, False, id="another-issuer"),
        pytest.param({"iss": None}, False, id="no-issuer"),
        pytest.param({"aud": "api://other"}, False, id="another-audience"),
        pytest.param({"aud": None}, False, id="no-audience"),
        pytest.param({"roles": ["reader"]}, False, id="a-claim-without-an-allowed-value"),
        pytest.param({"roles": None}, False, id="no-claim"),
        pytest.param({"roles": {"scorer": 1}}, False, id="a-claim-of-another-shape"),
    ],
)
def test_what_a_token_says(change: dict[str, Any], taken: bool) -> None:
    claims = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    assert verifier().accepts(signed(claims)) is taken


def unsigned(head: Mapping[str, Any], claims: Mapping[str, Any]) -> bytes:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims)]
    return b".".join([*parts, b""])


def test_forged_tokens_are_refused() -> None:
    public = json.dumps(listed(RSA)).encode()
    forged = {
        "unsigned": unsigned({"alg": "none", "kid": RSA.thumbprint()}, GOOD),
        "the public key as a password": signed(GOOD, "HS256", OctKey.import_key(public), kid=RSA.thumbprint()),
        "another's key under a known name": signed(GOOD, "RS256", RSAKey.generate_key(2048), kid=RSA.thumbprint()),
        "a key brought along": signed(GOOD, "RS256", other := RSAKey.generate_key(2048), jwk=other.as_dict(False)),
        "no name of a key": signed(GOOD, kid=None),
        "a name that is no text": unsigned({"alg": "RS256", "kid": 5}, GOOD),
        "critical and not understood": unsigned({"alg": "RS256", "kid": RSA.thumbprint(), "crit": ["x"], "x": 1}, GOOD),
        "a changed claim": signed(GOOD).replace(b".e", b".E", 1),
        "nothing": b"",
        "not a token": b"\xff\xfe..",
        "deep": b"W" * 4000 + b"..",
    }
    door_ = verifier()
    assert {name: door_.accepts(token) for name, token in forged.items()} == dict.fromkeys(forged, False)


def test_a_withdrawn_key_takes_back_what_was_verified_with_it() -> None:
    keys = key_set([listed(RSA), listed(EC)])
    known = [keys]
    door_ = Verifier(RULES, lambda: known[0], Clock())
    token = signed(GOOD)
    assert door_.accepts(token)
    known[0] = key_set([listed(EC)])
    assert door_.accepts(token) is False
    assert door_.accepts(signed(GOOD, "ES256"))


def test_an_unknown_key_is_told_and_without_keys_nothing_can_be_said() -> None:
    strange: list[int] = []
    door_ = Verifier(RULES, lambda: key_set([listed(EC)]), Clock(), lambda: strange.append(1))
    assert door_.accepts(signed(GOOD)) is False
    assert strange == [1]
    assert Verifier(RULES, lambda: None, Clock()).accepts(signed(GOOD)) is None


def test_only_public_keys_meant_to_sign_are_used_and_broken_ones_left_out() -> None:
    private = {**RSA.as_dict(private=True), "kid": "private"}
    keys = key_set([
        private, listed(EC, use="enc"), {"kty": "oct", "k": "AAAA", "kid": "s"}, {"kty": "RSA", "kid": "x"},
        {k: v for k, v in listed(ED).items() if k != "kid"},
    ])  # fmt: skip
    assert [(key.kid, key.is_private) for key in keys.keys] == [("private", False)]
