"""Who is let in, and as whom: API keys at rest, tokens by issuer and audience."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import httpx
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from tests.serving.world import PEPPER, Running, World, eventually, running

from cosalign.domain.errors import ConfigError
from cosalign.domain.yaml_text import yaml_value
from cosalign.serving.api_keys import key_fits, key_hash, key_id, new_key, read_pepper
from cosalign.serving.authentication import Authenticator
from cosalign.serving.refusals import Refusal
from cosalign.serving.tenants import IssuerEntry, Tenants, parse_tenants
from cosalign.serving.token_issuers import TokenChecker

ISSUER, AUDIENCE = "https://login.example", "cosalign"


def test_keys_are_kept_as_hashes_and_no_two_are_alike() -> None:
    keys = [new_key(PEPPER) for _ in range(50)]
    assert len({key.key for key in keys}) == len({key.id for key in keys}) == 50
    for key in keys:
        assert key_id(key.key) == key.id
        assert key.key.split("-", 2)[2] not in key.hash
        assert key_fits(key.key, key.hash, PEPPER)
        assert not key_fits(key.key, key.hash, b"q" * 32)
        assert not key_fits(key.key, None, PEPPER)


@pytest.mark.parametrize("random", ["123456789012", "12e456789012", "0b1010101010"])
def test_an_id_written_without_quotes_is_no_number(
    random: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: random)
    made = new_key(PEPPER)
    assert yaml_value(f"id: {made.id}") == {"id": made.id}


@given(st.text(max_size=80))
def test_no_other_text_is_the_key(text: str) -> None:
    made = new_key(PEPPER)
    assert key_fits(text, made.hash, PEPPER) == (text == made.key)


def test_a_hash_planted_without_the_pepper_lets_nobody_in() -> None:
    import hashlib

    mine = "cosalign-000000000000-mine"
    assert not key_fits(mine, hashlib.sha256(mine.encode()).hexdigest(), PEPPER)
    assert not key_fits(mine, key_hash(mine, b""), PEPPER)


def test_a_short_pepper_is_refused(tmp_path: Any) -> None:
    file = tmp_path / "pepper"
    file.write_text("short")
    with pytest.raises(ConfigError, match="holds 5 bytes"):
        read_pepper(str(file))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tenants": [{"name": "a", "regions": []}]}, "regions"),
        ({"tenants": [{"name": "A b", "regions": ["ie"]}]}, "name"),
        ({"tenants": [{"name": "a", "regions": ["ie"], "key": []}]}, "unknown field"),
        ({"tenants": [{"name": "a", "regions": ["ie"], "keys": [{"id": "1", "hash": "2"}]}]}, "id"),
        (
            {"tenants": [{"name": "a", "regions": ["ie"]}, {"name": "a", "regions": ["no"]}]},
            "twice",
        ),
        ({"tenants": [{"name": "a", "regions": ["ie"], "issuers": ["x"]}]}, "no issuer"),
        ({"tenants": [{"name": "a", "regions": ["ie"], "configs": {"no": "c"}}]}, "none of this"),
        (
            {
                "tenants": [
                    {
                        "name": "a",
                        "regions": ["ie", "no"],
                        "keys": [{"id": f"k{0:012}", "hash": "0" * 64}],
                    }
                ]
            },
            "region at each key",
        ),
        (
            {
                "tenants": [],
                "issuers": [
                    {
                        "name": "i",
                        "issuer": "x",
                        "audience": "y",
                        "jwks": "k",
                        "algorithms": ["HS256"],
                    }
                ],
            },
            "HS256",
        ),
        (
            {
                "tenants": [],
                "issuers": [
                    {
                        "name": "i",
                        "issuer": "x",
                        "audience": "y",
                        "jwks": "k",
                        "algorithms": ["none"],
                    }
                ],
            },
            "none",
        ),
        (
            {
                "tenants": [],
                "issuers": [
                    {"name": "i", "issuer": "x", "audience": "y", "jwks": "http://keys.example/"}
                ],
            },
            "plain http",
        ),
    ],
)
def test_a_wrong_tenants_file_says_what_is_wrong(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_tenants(yaml.safe_dump(change), "tenants.yaml")


WRONG_KEYS = {
    "none": None,
    "empty": "",
    "no scheme": "KEY",
    "basic": "Basic KEY",
    "scheme alone": "Bearer",
    "unknown": "Bearer cosalign-000000000000-x",
    "id alone": "Bearer cosalign-ID",
    "hash": "Bearer HASH",
    "cut": "Bearer CUT",
    "longer": "Bearer KEYx",
    "in capitals": "Bearer UPPER",
    "endless": "Bearer cosalign-" + "x" * 9000,
    "two words": "Bearer KEY KEY",
    "null": "Bearer null",
}


@pytest.mark.parametrize("wrong", WRONG_KEYS)
def test_wrong_keys_are_refused(shared: Running, wrong: str) -> None:
    key = shared.world.keys["pub"]
    value = WRONG_KEYS[wrong]
    stand_ins = {
        "KEY": key.key,
        "ID": key.id,
        "HASH": key.hash,
        "CUT": key.key[:-1],
        "UPPER": key.key.upper(),
    }
    for name, text in stand_ins.items():
        value = value.replace(name, text) if value else value
    headers = {"authorization": value} if value is not None else {}
    asked = len(shared.world.upstream.asked)
    answer = httpx.post(f"{shared.url}/v1/chat/completions", json={}, headers=headers)
    assert shared.code(answer) == (401, "invalid_api_key")
    assert len(shared.world.upstream.asked) == asked
    assert key.key not in answer.text


def test_keys_end_are_taken_back_and_tenants_suspended_while_it_runs(
    installation: World, capfd: pytest.CaptureFixture[str]
) -> None:
    from cosalign.serving import gateway

    gateway.TENANTS_SECONDS, before = 0.05, gateway.TENANTS_SECONDS
    try:
        with installation.gateway() as found:
            assert found.ask("pub").status_code == 200
            installation.tenants[0]["keys"][0]["expires"] = "2020-01-01"
            installation.write_tenants()
            eventually(lambda: found.ask("pub").status_code == 401)
            installation.tenants[0]["keys"][0]["expires"] = "2999-01-01"
            installation.write_tenants()
            eventually(lambda: found.ask("pub").status_code == 200)
            installation.tenants[0]["suspended"] = True
            installation.write_tenants()
            eventually(lambda: found.ask("pub").status_code == 403)
            assert found.code(found.ask("pub")) == (403, "tenant_suspended")
            # A file that is wrong leaves the one before in force.
            capfd.readouterr()
            (installation.folder / "tenants.yaml").write_text("tenants: [")
            eventually(lambda: "tenants not read" in "".join(capfd.readouterr()))
            assert found.ask("school").status_code == 200
            installation.tenants = installation.tenants[:1]
            installation.write_tenants()
            eventually(lambda: found.ask("school").status_code == 401)
    finally:
        gateway.TENANTS_SECONDS = before


def test_the_tenants_file_is_parsed_where_it_changed_and_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tenants.yaml"
    parsed: list[bool] = []

    def seen(text: str, source: str) -> Tenants:
        parsed.append(threading.current_thread() is threading.main_thread())
        return parse_tenants(text, source)

    async def rounds() -> None:
        async with aiohttp.ClientSession() as http:
            authenticator = Authenticator(str(file), PEPPER, TokenChecker(http), 300)
            for names in (["a"], ["a"], ["a", "b"], ["a", "b"], ["a"]):
                tenants = [{"name": name, "regions": ["ie"]} for name in names]
                file.write_text(yaml.safe_dump({"tenants": tenants}))
                await authenticator.refresh()
                assert authenticator.ready

    monkeypatch.setattr("cosalign.serving.authentication.parse_tenants", seen)
    asyncio.run(rounds())
    assert parsed == [False, False, False]


class Login:
    """A company's login: signs tokens, and publishes its keys."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.curve = ec.generate_private_key(ec.SECP256R1())
        self.asked = 0
        self.published: dict[str, Any] = {"r": self.rsa, "e": self.curve}

    def document(self, more: int = 0) -> bytes:
        keys = []
        for id_, key in self.published.items():
            kind: Any = jwt.algorithms.RSAAlgorithm if id_ != "e" else jwt.algorithms.ECAlgorithm
            keys.append({**kind.to_jwk(key.public_key(), as_dict=True), "kid": id_, "use": "sig"})
        keys.append(
            {
                "kty": "oct",
                "kid": "shared",
                "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0",
                "alg": "HS256",
            }
        )
        others = [{**keys[0], "kid": f"other {number}"} for number in range(more)]
        return json.dumps({"keys": [*others, *keys]}).encode()

    def token(self, key: Any = None, alg: str = "RS256", kid: str = "r", **claims: Any) -> str:
        said = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 600, "tenant": "bank"} | claims
        plain = {name: value for name, value in said.items() if value is not ...}
        return jwt.encode(plain, key or self.rsa, alg, headers={"kid": kid})


@pytest.fixture(scope="module")
def login() -> Login:
    return Login()


@pytest.fixture(scope="module")
def with_login(
    login: Login, tiny: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    from tests.serving.world import world

    async def keys(_: Any) -> Response:
        login.asked += 1
        return Response(login.document(), media_type="application/json")

    with (
        running(Starlette(routes=[Route("/keys", keys)])) as url,
        world(tmp_path_factory.mktemp("login"), tiny) as made,
    ):
        made.issuers = [
            {"name": "corporate", "issuer": ISSUER, "audience": AUDIENCE, "jwks": f"{url}/keys"},
            {
                "name": "elsewhere",
                "issuer": "https://other.example",
                "audience": AUDIENCE,
                "jwks": f"{url}/keys",
            },
        ]
        made.tenant("bank", ["ie", "no"], issuers=["corporate"], keys=[])
        made.tenant("firm", ["ie"], issuers=["elsewhere"])
        with made.gateway() as found:
            yield found


def asked_with(found: Running, token: str) -> httpx.Response:
    body = {"model": "cosalign", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    headers = {"authorization": f"Bearer {token}"}
    return httpx.post(f"{found.url}/v1/chat/completions", json=body, headers=headers)


def test_a_good_token_speaks_for_its_tenant_and_region(with_login: Running, login: Login) -> None:
    prompts = []
    for region in ("ie", "no"):
        answer = asked_with(with_login, login.token(region=region))
        assert answer.status_code == 200, answer.text
        prompts.append(with_login.world.upstream.asked[-1]["prompt"])
    assert prompts[0] != prompts[1]
    elliptic = login.token(login.curve, "ES256", "e", region="ie")
    assert asked_with(with_login, elliptic).status_code == 200


WRONG_TOKENS: dict[str, Any] = {
    "another audience": lambda i: i.token(aud="billing"),
    "no audience": lambda i: i.token(aud=...),
    "another issuer": lambda i: i.token(iss="https://evil.example"),
    "an issuer that may not": lambda i: i.token(iss="https://other.example"),
    "its time is over": lambda i: i.token(exp=time.time() - 120),
    "no end": lambda i: i.token(exp=...),
    "its time has not come": lambda i: i.token(nbf=time.time() + 600),
    "a key of one's own": lambda i: i.token(i.other),
    "an unknown key": lambda i: i.token(i.other, kid="x"),
    "signed with the public key": lambda i: i.token("c2VjcmV0" * 4, "HS256"),
    "signed with a shared key": lambda i: i.token(
        "secret-secret-secret-secret-x-xx", "HS256", "shared"
    ),
    "not signed": lambda _: jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 9, "tenant": "bank"},
        cast("Any", None),
        "none",
        headers={"kid": "r"},
    ),
    "signature cut off": lambda i: i.token().rpartition(".")[0] + ".",
    "another tenant": lambda i: i.token(tenant="firm"),
    "a tenant without issuers": lambda i: i.token(tenant="pub"),
    "no tenant": lambda i: i.token(tenant=...),
    "tenants in a list": lambda i: i.token(tenant=["bank"]),
    "three dots of nothing": lambda _: "..",
    "claims that are no object": lambda _: "eyJhbGciOiJSUzI1NiJ9.W10.AAAA",
}


@pytest.mark.parametrize("wrong", WRONG_TOKENS)
def test_wrong_tokens_are_refused(with_login: Running, login: Login, wrong: str) -> None:
    asked = len(with_login.world.upstream.asked)
    answer = asked_with(with_login, WRONG_TOKENS[wrong](login))
    assert with_login.code(answer) == (401, "invalid_token")
    assert len(with_login.world.upstream.asked) == asked


@pytest.mark.parametrize("region", [..., "se", ["ie"], ""])
def test_a_token_must_name_a_region_of_its_tenant(
    with_login: Running, login: Login, region: Any
) -> None:
    answer = asked_with(with_login, login.token(region=region))
    assert with_login.code(answer) == (403, "region_not_allowed")


async def claims_by_keys_from(url: str, token: str) -> Any:
    issuer = IssuerEntry(name="i", issuer=ISSUER, audience=AUDIENCE, jwks=url)
    async with aiohttp.ClientSession() as http:
        return (await TokenChecker(http).claims(token, {ISSUER: issuer}))[1]


@pytest.mark.parametrize("more", [0, 500])
def test_a_key_set_is_read_to_its_end_however_it_comes(login: Login, more: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        document = login.document(more)
        yield document[:500]
        await asyncio.sleep(0.05)
        yield document[500:]

    async def keys(_: Any) -> Response:
        return StreamingResponse(pieces(), media_type="application/json")

    with running(Starlette(routes=[Route("/keys", keys)])) as url:
        said = asyncio.run(claims_by_keys_from(f"{url}/keys", login.token()))
    assert said["tenant"] == "bank"


def test_a_key_set_without_end_is_given_up(login: Login) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65536
            await asyncio.sleep(0)

    async def keys(_: Any) -> Response:
        return StreamingResponse(pieces(), media_type="application/json")

    with (
        running(Starlette(routes=[Route("/keys", keys)])) as url,
        pytest.raises(Refusal, match="cannot be fetched"),
    ):
        asyncio.run(claims_by_keys_from(f"{url}/keys", login.token()))


def test_invented_key_ids_make_the_gateway_ask_for_keys_no_more_often(
    with_login: Running, login: Login
) -> None:
    before = login.asked
    for number in range(30):
        asked_with(with_login, login.token(kid=f"invented {number}"))
    assert login.asked <= before + 1
