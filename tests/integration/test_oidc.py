"""Tokens of an issuer: its keys are fetched over real HTTP, change, and stay when it goes away."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from headgate.process import Issuer
from headgate.table import EndpointRoute
from headgate_router import auth, oidc
from headgate_router.oidc import Issuers
from headgate_router.refusals import NO_ISSUER, UNAUTHORIZED, Refusal

ONE, TWO = RSAKey.generate_key(2048), RSAKey.generate_key(2048)


class Idp:
    """An issuer: its configuration and keys. `away`: it answers 503."""

    def __init__(self) -> None:
        idp = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                idp.asked.append(self.path)
                body = json.dumps(idp.says.get(self.path, {})).encode()
                self.send_response(503 if idp.away else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.asked: list[str] = []
        self.away = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.says: dict[str, Any] = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        }
        self.sign_with(ONE)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), name="idp").start()

    def sign_with(self, *keys: RSAKey) -> None:
        self.says["/keys"] = {"keys": [{**key.as_dict(private=False), "kid": key.thumbprint()} for key in keys]}

    def token(self, key: RSAKey = ONE) -> list[bytes]:
        claims = {"iss": self.url, "aud": "api://scoring", "exp": int(time.time()) + 600}
        made = jwt.encode({"alg": "RS256", "kid": key.thumbprint()}, claims, key)
        return [f"Bearer {made}".encode()]

    def issuer(self, **more: Any) -> Issuer:
        return Issuer(self.url, ("api://scoring",), **more)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def idp() -> Iterator[Idp]:
    running = Idp()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "HURRY_S", 0.01)
    monkeypatch.setattr(oidc, "PAUSE_S", (0.01, 0.05))


def run(
    scenario: Callable[[Issuers], Coroutine[Any, Any, None]],
    file: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    async def bounded() -> None:
        issuers = Issuers(file, clock)
        async with asyncio.timeout(60):
            await scenario(issuers)
            await issuers.close()

    asyncio.run(bounded())


def door(issuers: Issuers, issuer: Issuer) -> auth.Door:
    issuers.keep([issuer])
    return auth.door(EndpointRoute("fraud", 1, "c", (), auth_mode="aad_token", issuer=issuer), issuers)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def answered(entrance: auth.Door, token: list[bytes], expected: Refusal | None) -> None:
    await until(lambda: entrance.refuses(token) is expected)


@pytest.mark.parametrize("named", [False, True], ids=["discovered", "named"])
def test_an_issuers_token_is_taken(idp: Idp, named: bool) -> None:
    async def scenario(issuers: Issuers) -> None:
        issuer = idp.issuer(jwks=f"{idp.url}/keys" if named else "")
        await answered(door(issuers, issuer), idp.token(), None)

    run(scenario)
    assert idp.asked == (["/keys"] if named else ["/.well-known/openid-configuration", "/keys"])


def test_before_its_keys_are_known_nobody_is_called_unauthorized(idp: Idp) -> None:
    async def scenario(issuers: Issuers) -> None:
        idp.away = True
        entrance = door(issuers, idp.issuer())
        assert entrance.refuses(idp.token()) is NO_ISSUER
        assert entrance.refuses([]) is UNAUTHORIZED
        await until(lambda: len(idp.asked) > 1)
        idp.away = False
        await answered(entrance, idp.token(), None)

    run(scenario)


def test_a_key_that_is_new_is_fetched_when_a_token_names_it(idp: Idp) -> None:
    async def scenario(issuers: Issuers) -> None:
        entrance = door(issuers, idp.issuer())
        await answered(entrance, idp.token(), None)
        idp.sign_with(ONE, TWO)
        assert entrance.refuses(idp.token(TWO)) is UNAUTHORIZED, "no request waits for the issuer"
        await answered(entrance, idp.token(TWO), None)
        assert entrance.refuses(idp.token(ONE)) is None

    run(scenario)


def test_a_key_that_is_withdrawn_opens_no_more(idp: Idp) -> None:
    async def scenario(issuers: Issuers) -> None:
        entrance = door(issuers, idp.issuer())
        await answered(entrance, idp.token(), None)
        idp.sign_with(TWO)
        await answered(entrance, idp.token(TWO), None)
        assert entrance.refuses(idp.token(ONE)) is UNAUTHORIZED

    run(scenario)


def test_while_the_issuer_is_away_its_last_keys_serve_on(idp: Idp) -> None:
    async def scenario(issuers: Issuers) -> None:
        entrance = door(issuers, idp.issuer())
        await answered(entrance, idp.token(), None)
        idp.away = True
        before = len(idp.asked)
        entrance.refuses(idp.token(TWO))
        await until(lambda: len(idp.asked) > before + 2)
        assert entrance.refuses(idp.token(ONE)) is None

    run(scenario)


def test_a_start_while_the_issuer_is_away_serves_by_the_keys_of_the_last_day(idp: Idp, tmp_path: Path) -> None:
    file = tmp_path / "tables" / "router-0.issuers.json"

    async def served(issuers: Issuers) -> None:
        await answered(door(issuers, idp.issuer()), idp.token(), None)
        await until(file.exists)

    async def serves(issuers: Issuers) -> None:
        assert door(issuers, idp.issuer()).refuses(idp.token()) is None

    async def does_not(issuers: Issuers) -> None:
        assert door(issuers, idp.issuer()).refuses(idp.token()) is NO_ISSUER

    run(served, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert set(json.loads(file.read_bytes())[f"{idp.url} "]["keys"][0]) <= {"kty", "n", "e", "kid", "alg", "use"}
    idp.away = True
    run(serves, file)
    run(does_not, file, clock=lambda: time.time() + 2 * 86_400)
    file.write_bytes(b"no JSON")
    run(does_not, file)


def test_names_made_up_by_callers_do_not_make_a_flood(idp: Idp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "HURRY_S", 60.0)

    async def scenario(issuers: Issuers) -> None:
        entrance = door(issuers, idp.issuer())
        await answered(entrance, idp.token(), None)
        fetched = len(idp.asked)
        for _ in range(200):
            assert entrance.refuses(idp.token(TWO)) is UNAUTHORIZED
            await asyncio.sleep(0)
        assert len(idp.asked) == fetched

    run(scenario)


@pytest.mark.parametrize(
    "says",
    [
        pytest.param({"issuer": "https://evil", "jwks_uri": "{url}/keys"}, id="of-another-issuer"),
        pytest.param({"issuer": "{url}", "jwks_uri": "http://10.0.0.1/keys"}, id="keys-over-plain-http"),
        pytest.param({"issuer": "{url}", "jwks_uri": "file:///etc/passwd"}, id="keys-in-a-file"),
        pytest.param({"issuer": "{url}", "jwks_uri": "https://["}, id="keys-nowhere"),
        pytest.param({"issuer": "{url}", "jwks_uri": "{url}/none"}, id="no-keys"),
        pytest.param(["no", "object"], id="no-object"),
    ],
)
def test_an_issuer_that_says_odd_things_has_no_keys(idp: Idp, says: Any) -> None:
    idp.says["/.well-known/openid-configuration"] = json.loads(json.dumps(says).replace("{url}", idp.url))

    async def scenario(issuers: Issuers) -> None:
        entrance = door(issuers, idp.issuer())
        await until(lambda: idp.asked.count("/.well-known/openid-configuration") > 1)
        assert entrance.refuses(idp.token()) is NO_ISSUER

    run(scenario)


def test_who_is_in_no_table_any_more_is_asked_no_more(idp: Idp) -> None:
    async def scenario(issuers: Issuers) -> None:
        entrance = door(issuers, idp.issuer())
        await answered(entrance, idp.token(), None)
        issuers.keep([])
        assert entrance.refuses(idp.token()) is NO_ISSUER

    run(scenario)
