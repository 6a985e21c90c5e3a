"""Logins with access tokens: which are good, which are not, what a client hears, and who is asked how often."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mailroot.clock import ManualClock
from mailroot.policy.auth.base import Challenge, Channel, Denied, Granted, Malformed, Step, Unavailable
from mailroot.policy.auth.claims import Wanted, judge
from mailroot.policy.auth.oauth import Tokens
from mailroot.policy.auth.settings import OAuthSettings
from mailroot.smtp.sasl.oauth import write_oauthbearer, write_xoauth2
from rig.issuer import AUDIENCE, KEYS, Issuer, public, unsigned

pytestmark = pytest.mark.quick

CHANNEL = Channel(ip_address("192.0.2.7"), "relay.example")
ANN = "ann@example.com"


class Rig:
    """An issuer, a clock, and Tokens that trust that issuer."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.clock = ManualClock()
        self.made: list[Tokens] = []
        self.tokens = self.make()

    def make(self, **settings: Any) -> Tokens:
        base = OAuthSettings(issuer=self.issuer.address, audience=AUDIENCE)
        self.tokens = Tokens(replace(base, **settings), self.clock)
        self.made.append(self.tokens)
        return self.tokens

    def introspect(self, answer: object, **settings: Any) -> Tokens:
        """Tokens that are asked about, and this is what the issuer says of each."""
        self.issuer.answers["/tenant/introspect"] = answer
        return self.make(
            introspection=f"{self.issuer.address}/introspect",
            client_id="mail root",
            client_secret="top:secret/ä",
            **settings,
        )

    def token(self, **claims: Any) -> str:
        return self.issuer.token(self.clock.now(), **claims)

    async def login(self, token: str, user: str = ANN, mechanism: str = "XOAUTH2") -> Step:
        """The verdict; what a refused client hears before it is left out."""
        exchange = self.tokens.begin(mechanism, CHANNEL)
        write = write_xoauth2 if mechanism == "XOAUTH2" else write_oauthbearer
        step = await exchange.step(write(user, token))
        if isinstance(step, Challenge):
            assert step.denied is not None
            assert await exchange.step(b"" if mechanism == "XOAUTH2" else b"\x01") == step.denied
            return step.denied
        return step

    @property
    def asked(self) -> int:
        """How often for keys."""
        return self.issuer.asked["/tenant/keys"]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Issuer() as issuer:
        rig = Rig(issuer)
        yield rig
        for tokens in rig.made:
            await tokens.close()


def denied(reason: str, user: str = ANN) -> Callable[[Step], bool]:
    return lambda step: (
        isinstance(step, Denied) and step.user == user and re.search(reason, step.reason) is not None
    )


class TestExchange:
    async def test_a_good_token_is_a_login(self, rig: Rig) -> None:
        assert await rig.login(rig.token()) == Granted(ANN)
        assert await rig.login(rig.token(), mechanism="OAUTHBEARER") == Granted(ANN)
        assert await rig.login(rig.token(), user="", mechanism="OAUTHBEARER") == Granted(ANN)

    async def test_the_server_speaks_first_where_there_was_no_initial_response(self, rig: Rig) -> None:
        exchange = rig.tokens.begin("XOAUTH2", CHANNEL)
        assert exchange.user == ""
        assert await exchange.step(None) == Challenge(b"")
        assert await exchange.step(write_xoauth2(ANN, rig.token())) == Granted(ANN)
        assert exchange.user == ANN

    async def test_the_user_must_be_the_tokens_own(self, rig: Rig) -> None:
        assert await rig.login(rig.token(), user="ANN@Example.COM") == Granted(ANN)
        for user in ("bob@example.com", "ann@example.co", "ann", "ann@example.com "):
            assert denied("the token is that of ann@example.com", user)(await rig.login(rig.token(), user=user))
            verdict = await rig.login(rig.token(), user=user, mechanism="OAUTHBEARER")
            assert denied("the token is that of ann@example.com", user)(verdict)

    async def test_a_refused_client_hears_why_and_its_answer_does_not_matter(self, rig: Rig) -> None:
        rig.make(scope="SMTP.Send")
        expired = rig.token(exp=1)
        exchange = rig.tokens.begin("XOAUTH2", CHANNEL)
        step = await exchange.step(write_xoauth2(ANN, expired))
        assert isinstance(step, Challenge)
        assert json.loads(step.octets) == {"status": "401", "schemes": "bearer", "scope": "SMTP.Send"}
        assert await exchange.step(write_xoauth2(ANN, rig.token(scope="SMTP.Send"))) == step.denied

        exchange = rig.tokens.begin("OAUTHBEARER", CHANNEL)
        step = await exchange.step(write_oauthbearer(ANN, rig.token(scope="Mail.Read")))
        assert isinstance(step, Challenge)
        assert json.loads(step.octets) == {
            "status": "insufficient_scope",
            "scope": "SMTP.Send",
            "openid-configuration": f"{rig.issuer.address}/.well-known/openid-configuration",
        }
        assert isinstance(await exchange.step(b"\x01"), Denied)

    async def test_who_asks_what_would_do_is_told(self, rig: Rig) -> None:
        exchange = rig.tokens.begin("OAUTHBEARER", CHANNEL)
        step = await exchange.step(b"n,a=ann@example.com,\x01auth=\x01\x01")
        assert isinstance(step, Challenge)
        assert json.loads(step.octets)["openid-configuration"].startswith(rig.issuer.address)
        assert denied("no token")(await exchange.step(b"\x01"))
        assert not rig.issuer.asked

    async def test_what_is_not_in_the_form_is_no_failed_login(self, rig: Rig) -> None:
        for mechanism in ("XOAUTH2", "OAUTHBEARER"):
            for octets in (b"", b"\0ann\0password", b"user=ann\x01\x01"):
                assert isinstance(await rig.tokens.begin(mechanism, CHANNEL).step(octets), Malformed)
        assert not rig.issuer.asked

    async def test_nothing_shows_the_token(self, rig: Rig) -> None:
        token = rig.token(aud="api://other")
        exchange = rig.tokens.begin("XOAUTH2", CHANNEL)
        said = [repr(await exchange.step(write_xoauth2(ANN, token))), repr(exchange), repr(rig.tokens)]
        rig.issuer.down = True
        exchange = rig.tokens.begin("XOAUTH2", CHANNEL)
        step = await exchange.step(write_xoauth2(ANN, good := rig.token()))
        assert isinstance(step, Unavailable)
        said += [repr(step), repr(exchange)]
        rig.introspect(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        said.append(repr(await rig.login(good)))
        for part in (token, *token.split("."), *good.split(".")[1:]):
            assert not any(part in text for text in said)

    def test_other_mechanisms_are_not_its_own(self) -> None:
        tokens = Tokens(OAuthSettings(issuer="https://login.example", audience="a"), ManualClock())
        assert tokens.mechanisms == ("XOAUTH2", "OAUTHBEARER")
        with pytest.raises(ValueError, match="PLAIN"):
            tokens.begin("PLAIN", CHANNEL)


class TestSignedTokens:
    @pytest.mark.parametrize("algorithm", [name for name in KEYS if name != "other"])
    async def test_every_algorithm_with_a_public_key(self, rig: Rig, algorithm: str) -> None:
        rig.issuer.keys(*(public(name, kid=name) for name in KEYS if name not in ("other", algorithm)))
        token = rig.token(algorithm=algorithm, header={"kid": "mine"})
        assert isinstance(await rig.login(token), Denied)
        rig.issuer.keys(public(algorithm, kid="mine"), public("other", kid="other"))
        rig.clock.turn(60)
        assert await rig.login(token) == Granted(ANN)
        first, second, signature = token.split(".")
        flipped = "A" if signature[10] != "A" else "B"
        broken = f"{first}.{second}.{signature[:10]}{flipped}{signature[11:]}"
        assert denied("signature is wrong")(await rig.login(broken))

    async def test_no_signature_is_none(self, rig: Rig) -> None:
        assert denied("not signed in a way")(await rig.login(unsigned(rig.token())))
        head = base64.urlsafe_b64encode(b'{"alg":"NONE","typ":"JWT"}').rstrip(b"=").decode()
        _, claims, signature = rig.token().split(".")
        for token in (f"{head}.{claims}.", f"{head}.{claims}.{signature}"):
            assert isinstance(await rig.login(token), Denied)
        assert not rig.asked

    async def test_the_public_key_is_nobodys_shared_secret(self, rig: Rig) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        pem = KEYS["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        claims = rig.token().split(".")[1]
        for secret in (pem, json.dumps(public("RS256", kid="rsa")).encode()):
            for algorithm in ("HS256", "RS256"):
                head = json.dumps({"alg": algorithm, "kid": "rsa", "typ": "JWT"}).encode()
                text = f"{base64.urlsafe_b64encode(head).rstrip(b'=').decode()}.{claims}"
                mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
                token = f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
                assert isinstance(await rig.login(token), Denied)

    async def test_a_symmetric_key_that_somebody_publishes_is_not_used(self, rig: Rig) -> None:
        secret = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
        coded = base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
        rig.issuer.keys({"kty": "oct", "k": coded, "kid": "rsa", "alg": "HS256"})
        assert isinstance(await rig.login(rig.token(algorithm="HS256", key=secret)), Denied)

    async def test_a_key_is_used_for_what_it_says(self, rig: Rig) -> None:
        token = rig.token()
        for members in ({"use": "enc"}, {"alg": "RS512"}, {"alg": "PS256"}, {"key_ops": ["encrypt"]}):
            rig.issuer.keys(public("RS256", kid="rsa", **members))
            rig.clock.turn(60)
            rig.make()
            assert isinstance(await rig.login(token), Denied)
        for members in ({"use": "sig"}, {"alg": "RS256"}, {"key_ops": ["verify"]}, {}):
            rig.issuer.keys(public("RS256", kid="rsa", **members))
            rig.make()
            assert await rig.login(token) == Granted(ANN)

    async def test_a_curve_is_that_of_the_algorithm(self, rig: Rig) -> None:
        rig.issuer.keys(public("ES384", kid="rsa"), public("EdDSA", kid="rsa"))
        assert isinstance(await rig.login(rig.token(algorithm="ES256", key=KEYS["ES256"])), Denied)

    async def test_another_key_under_the_same_name(self, rig: Rig) -> None:
        assert denied("signature is wrong")(await rig.login(rig.token(key=KEYS["other"])))

    async def test_a_token_brings_no_key_of_its_own(self, rig: Rig) -> None:
        # RFC 8725 §3.10
        for header in (
            {"jwk": public("other")},
            {"jku": f"{rig.issuer.address}/mine"},
            {"x5u": "http://127.0.0.1/"},
        ):
            token = rig.token(key=KEYS["other"], header={"kid": "rsa"} | header)
            assert denied("signature is wrong")(await rig.login(token))
        assert rig.issuer.asked["/tenant/mine"] == 0

    async def test_a_token_without_a_key_name_is_tried_with_all(self, rig: Rig) -> None:
        rig.issuer.keys(public("other", kid="a"), public("RS256", kid="b"), {"kty": "RSA", "kid": "c"}, {"kty": 7})
        assert await rig.login(rig.token(header={})) == Granted(ANN)

    async def test_weak_keys_are_no_keys(self, rig: Rig) -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa
        from jwt.algorithms import RSAAlgorithm

        weak = rsa.generate_private_key(65537, 1024)
        rig.issuer.keys(RSAAlgorithm.to_jwk(weak.public_key(), as_dict=True) | {"kid": "rsa"})
        with pytest.warns(match="minimum"):
            token = rig.token(key=weak)
        assert isinstance(await rig.login(token), Denied)

    @pytest.mark.parametrize(
        ("claims", "reason"),
        [
            ({"iss": "https://other.example"}, "another issuer"),
            ({"without": ("iss",)}, "another issuer"),
            ({"aud": "api://other"}, "not for the audience"),
            ({"aud": ["api://other", "api://mailroot/x"]}, "not for the audience"),
            ({"aud": []}, "not for the audience"),
            ({"without": ("aud",)}, "not for the audience"),
            ({"exp": 1}, "expired"),
            ({"exp": "tomorrow"}, "'exp' is not a time"),
            ({"exp": True}, "'exp' is not a time"),
            ({"exp": 10**400}, "'exp' is not a time"),
            ({"exp": float("inf")}, "'exp' is not a time"),
            ({"without": ("exp",)}, "does not say when it ends"),
            ({"nbf": 4_000_000_000}, "not valid yet"),
            ({"nbf": []}, "'nbf' is not a time"),
            ({"without": ("preferred_username",)}, "who its user is"),
            ({"preferred_username": ["ann@example.com"]}, "who its user is"),
            ({"preferred_username": ""}, "who its user is"),
            ({"preferred_username": "ann@example.com\r\n"}, "who its user is"),
            ({"preferred_username": "a" * 400}, "who its user is"),
            ({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}, "bound to a key"),
        ],
    )
    async def test_claims_that_will_not_do(self, rig: Rig, claims: dict[str, Any], reason: str) -> None:
        assert denied(reason)(await rig.login(rig.token(**claims)))
        # Who cannot be let in anyway has nobody asked.
        assert not rig.issuer.asked

    async def test_clocks_may_differ_a_little(self, rig: Rig) -> None:
        now = int(rig.clock.now())
        assert await rig.login(rig.token(exp=now - 20)) == Granted(ANN)
        assert await rig.login(rig.token(nbf=now + 20)) == Granted(ANN)
        assert isinstance(await rig.login(rig.token(exp=now - 30)), Denied)
        assert isinstance(await rig.login(rig.token(nbf=now + 31)), Denied)

    async def test_an_hour_later_it_has_expired(self, rig: Rig) -> None:
        token = rig.token()
        assert await rig.login(token) == Granted(ANN)
        rig.clock.turn(3700)
        assert denied("expired")(await rig.login(token))

    async def test_a_scope_by_any_of_its_names(self, rig: Rig) -> None:
        rig.make(scope="SMTP.Send")
        for claims in (
            {"scope": "openid SMTP.Send"},
            {"scp": "SMTP.Send Mail.Read"},
            {"roles": ["SMTP.Send"]},
            {"scp": ["a", "SMTP.Send"]},
        ):
            assert await rig.login(rig.token(**claims)) == Granted(ANN)
        for claims in ({}, {"scope": "smtp.send"}, {"scp": "SMTP.SendAsApp"}, {"roles": "x"}, {"roles": [1]}):
            assert denied("SMTP.Send")(await rig.login(rig.token(**claims)))

    async def test_other_kinds_of_tokens_are_not_access_tokens(self, rig: Rig) -> None:
        for kind in ("logout+jwt", "dpop+jwt", "secevent+jwt", ""):
            token = rig.token(header={"kid": "rsa", "typ": kind})
            if kind:
                assert denied("another type", ANN)(await rig.login(token))
        for kind in ("JWT", "at+jwt", "AT+JWT", "application/at+jwt"):
            assert await rig.login(rig.token(header={"kid": "rsa", "typ": kind})) == Granted(ANN)

    async def test_what_is_no_token_at_all(self, rig: Rig) -> None:
        deep = base64.urlsafe_b64encode(b"[" * 6000).rstrip(b"=").decode()
        head = base64.urlsafe_b64encode(b'{"alg":"RS256"}').rstrip(b"=").decode()
        listed = base64.urlsafe_b64encode(b"[1]").rstrip(b"=").decode()
        for token in (
            "a",
            "a.b.c",
            f"{head}.{deep}.AAAA",
            f"{deep}.{deep}.AAAA",
            f"{head}.{listed}.AAAA",
            "..",
            "e30.e30.",
        ):
            assert denied("not a signed token|not signed in a way")(await rig.login(token))
        assert not rig.issuer.asked


class TestKeys:
    async def test_keys_are_asked_for_once(self, rig: Rig) -> None:
        verdicts = await asyncio.gather(*(rig.login(rig.token()) for _ in range(50)))
        assert set(verdicts) == {Granted(ANN)}
        rig.clock.turn(3500)
        assert await rig.login(rig.token()) == Granted(ANN)
        assert rig.issuer.asked == {"/tenant/.well-known/openid-configuration": 1, "/tenant/keys": 1}

    async def test_they_are_read_again_after_an_hour(self, rig: Rig) -> None:
        assert await rig.login(rig.token()) == Granted(ANN)
        rig.issuer.keys(public("other", kid="new"))
        rig.clock.turn(3601)
        assert denied("does not have")(await rig.login(rig.token()))
        assert rig.asked == 2

    async def test_a_new_key_is_found_when_it_is_first_used(self, rig: Rig) -> None:
        assert await rig.login(rig.token()) == Granted(ANN)
        rig.issuer.keys(public("RS256", kid="rsa"), public("other", kid="new"))
        rig.clock.turn(60)
        new = rig.token(key=KEYS["other"], header={"kid": "new"})
        assert set(await asyncio.gather(*(rig.login(new) for _ in range(20)))) == {Granted(ANN)}
        assert rig.asked == 2

    async def test_a_flood_of_unknown_keys_asks_seldom(self, rig: Rig) -> None:
        assert await rig.login(rig.token()) == Granted(ANN)
        rig.clock.turn(60)
        for burst in range(3):
            tokens = [rig.token(key=KEYS["other"], header={"kid": f"{burst}-{n}"}) for n in range(30)]
            for verdict in await asyncio.gather(*map(rig.login, tokens)):
                assert denied("does not have")(verdict)
            rig.clock.turn(10)
        assert rig.asked == 2
        assert await rig.login(rig.token()) == Granted(ANN)

    async def test_while_the_issuer_is_down_the_known_keys_are_good_for_a_day(self, rig: Rig) -> None:
        assert await rig.login(rig.token()) == Granted(ANN)
        rig.issuer.down = True
        for _ in range(23):
            rig.clock.turn(3600)
            assert await rig.login(rig.token()) == Granted(ANN)
        # Of a key that is not known nothing can be said now; of a bad token it can.
        unknown = rig.token(key=KEYS["other"], header={"kid": "new"})
        assert isinstance(await rig.login(unknown), Unavailable)
        assert denied("signature is wrong")(await rig.login(rig.token(key=KEYS["other"])))
        assert denied("expired")(await rig.login(rig.token(exp=1)))
        rig.clock.turn(3700)
        assert isinstance(await rig.login(rig.token()), Unavailable)
        rig.issuer.down = False
        rig.clock.turn(60)
        assert await rig.login(rig.token()) == Granted(ANN)

    async def test_where_it_was_never_reached_nothing_can_be_said(self, rig: Rig) -> None:
        rig.issuer.down = True
        first = await rig.login(rig.token())
        assert isinstance(first, Unavailable)
        assert rig.issuer.address in first.reason
        rig.issuer.down = False
        # It is not asked again at once, or every login of a flood would.
        assert isinstance(await rig.login(rig.token()), Unavailable)
        rig.clock.turn(31)
        assert await rig.login(rig.token()) == Granted(ANN)

    async def test_a_clock_that_is_set_back_holds_nobody_up(self, rig: Rig) -> None:
        rig.issuer.down = True
        assert isinstance(await rig.login(rig.token()), Unavailable)
        rig.issuer.down = False
        rig.clock.turn(31)
        rig.clock.set(rig.clock.now() - 7200)
        assert await rig.login(rig.token()) == Granted(ANN)

    async def test_one_that_gives_up_does_not_spoil_it_for_the_others(self, rig: Rig) -> None:
        impatient = asyncio.create_task(rig.login(rig.token()))
        patient = asyncio.create_task(rig.login(rig.token()))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient == Granted(ANN)
        assert impatient.cancelled()

    async def test_who_waits_while_it_is_closed_hears_that_it_cannot_be_known(self, rig: Rig) -> None:
        rig.issuer.answers["/tenant/keys"] = None
        waiting = asyncio.create_task(rig.login(rig.token()))
        while not rig.asked:
            await asyncio.sleep(0)
        await rig.tokens.close()
        assert isinstance(await waiting, Unavailable)

    async def test_metadata_where_rfc_8414_puts_it(self, rig: Rig) -> None:
        metadata = rig.issuer.answers.pop("/tenant/.well-known/openid-configuration")
        rig.issuer.answers["/.well-known/oauth-authorization-server/tenant"] = metadata
        assert await rig.login(rig.token()) == Granted(ANN)

    async def test_keys_at_an_address_that_is_told(self, rig: Rig) -> None:
        rig.issuer.answers["/elsewhere"] = rig.issuer.answers["/tenant/keys"]
        rig.make(jwks=rig.issuer.address.replace("/tenant", "/elsewhere"))
        assert await rig.login(rig.token()) == Granted(ANN)
        assert rig.issuer.asked == {"/elsewhere": 1}

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ({"issuer": "https://other.example", "jwks_uri": "http://127.0.0.1/keys"}, "other.example"),
            ({"jwks_uri": "http://127.0.0.1/keys"}, "issuer"),
            ({"issuer": "ISSUER"}, "jwks_uri"),
            ({"issuer": "ISSUER", "jwks_uri": "http://keys.example/"}, "not safe"),
            ({"issuer": "ISSUER", "jwks_uri": "file:///etc/passwd"}, "not safe|not an address"),
            (["no object"], "not a JSON object"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope", "not a JSON object"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b" " * 70000, "longer than 64 KiB"),
            (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", "compressed"),
            (b"HTTP/1.1 302 Found\r\nLocation: /tenant/keys\r\nContent-Length: 0\r\n\r\n", "302"),
            (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "503"),
            (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "has no metadata"),
            (b"220 mail.example ESMTP\r\n\r\n", "no answer"),
        ],
    )
    async def test_metadata_that_will_not_do(self, rig: Rig, answer: Any, reason: str) -> None:
        if isinstance(answer, dict) and answer.get("issuer") == "ISSUER":
            answer = answer | {"issuer": rig.issuer.address}
        rig.issuer.answers["/tenant/.well-known/openid-configuration"] = answer
        verdict = await rig.login(rig.token())
        assert isinstance(verdict, Unavailable)
        assert re.search(reason, verdict.reason)
        assert not rig.asked

    @pytest.mark.parametrize("answer", [{}, {"keys": None}, {"keys": {"a": 1}}])
    async def test_keys_that_will_not_do(self, rig: Rig, answer: Any) -> None:
        rig.issuer.answers["/tenant/keys"] = answer
        assert isinstance(await rig.login(rig.token()), Unavailable)


GOOD = {"active": True, "username": ANN, "aud": AUDIENCE, "scope": "SMTP.Send", "token_type": "Bearer"}


class TestIntrospection:
    async def test_the_issuer_is_asked_as_the_rfc_says(self, rig: Rig) -> None:
        rig.introspect(GOOD)
        assert await rig.login("opaque-token") == Granted(ANN)
        [(path, fields, form)] = rig.issuer.requests
        assert path == "/tenant/introspect"
        assert form == {"token": ["opaque-token"], "token_type_hint": ["access_token"]}
        # RFC 6749 §2.3.1
        login = base64.b64decode(fields["authorization"].removeprefix("Basic ")).decode()
        assert login == "mail+root:top%3Asecret%2F%C3%A4"

    async def test_who_it_is_by_the_claim_the_username_or_the_subject(self, rig: Rig) -> None:
        rig.introspect(GOOD | {"preferred_username": "bob@example.com", "sub": "1"})
        assert await rig.login("a", user="bob@example.com") == Granted("bob@example.com")
        rig.introspect(GOOD | {"sub": "1"})
        assert await rig.login("b") == Granted(ANN)
        rig.introspect({"active": True, "sub": "app-7", "aud": [AUDIENCE]})
        assert await rig.login("c", user="app-7") == Granted("app-7")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"active": False}, "not active"),
            ({"active": "true"}, "not active"),
            ({"active": 1}, "not active"),
            ({"aud": "api://other"}, "audience"),
            ({"aud": None}, "audience"),
            ({"exp": 1}, "expired"),
            ({"nbf": 4_000_000_000}, "not valid yet"),
            ({"iss": "https://other.example"}, "another issuer"),
            ({"scope": "Mail.Read"}, "scope"),
            ({"username": None}, "who its user is"),
            ({"cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}}, "bound to a key"),
        ],
    )
    async def test_answers_that_will_not_do(self, rig: Rig, change: dict[str, Any], reason: str) -> None:
        rig.introspect(GOOD | change, scope="SMTP.Send")
        assert denied(reason)(await rig.login("opaque-token"))

    async def test_a_good_answer_is_remembered_for_a_minute_and_never_past_the_end(self, rig: Rig) -> None:
        now = int(rig.clock.now())
        rig.introspect(GOOD | {"exp": now + 90})
        for _ in range(3):
            assert await rig.login("opaque-token") == Granted(ANN)
        assert len(rig.issuer.requests) == 1
        assert denied("that of ann", "bob")(await rig.login("opaque-token", user="bob"))
        rig.clock.turn(61)
        assert await rig.login("opaque-token") == Granted(ANN)
        assert len(rig.issuer.requests) == 2
        rig.clock.turn(30)  # past the end, though remembered for less than a minute
        rig.issuer.answers["/tenant/introspect"] = {"active": False}
        assert denied("not active")(await rig.login("opaque-token"))
        assert len(rig.issuer.requests) == 3

    async def test_a_bad_answer_is_not_remembered(self, rig: Rig) -> None:
        rig.introspect({"active": False})
        assert isinstance(await rig.login("opaque-token"), Denied)
        rig.issuer.answers["/tenant/introspect"] = GOOD
        assert await rig.login("opaque-token") == Granted(ANN)

    async def test_what_is_remembered_has_a_bound_and_no_tokens(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mailroot.policy.auth.introspection._MOST_REMEMBERED", 3)
        rig.introspect(GOOD)
        for name in ("one", "two", "three", "four"):
            assert await rig.login(f"token-{name}") == Granted(ANN)
        remembered = rig.tokens._check._remembered  # type: ignore[attr-defined]
        assert len(remembered) == 3
        assert b"token" not in b"".join(remembered)
        assert await rig.login("token-four") == Granted(ANN)
        assert len(rig.issuer.requests) == 4
        assert await rig.login("token-one") == Granted(ANN)
        assert len(rig.issuer.requests) == 5

    async def test_a_clock_that_is_set_back_keeps_nothing_longer(self, rig: Rig) -> None:
        rig.introspect(GOOD)
        assert await rig.login("opaque-token") == Granted(ANN)
        rig.clock.set(rig.clock.now() - 86400)
        rig.clock.turn(61)
        assert await rig.login("opaque-token") == Granted(ANN)
        assert len(rig.issuer.requests) == 2

    async def test_an_issuer_that_does_not_answer(self, rig: Rig) -> None:
        rig.introspect(GOOD)
        rig.issuer.down = True
        verdict = await rig.login("opaque-token")
        assert isinstance(verdict, Unavailable)
        assert f"{rig.issuer.address}/introspect" in verdict.reason
        assert "secret" not in verdict.reason
        rig.issuer.down = False
        rig.introspect(b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n")
        assert isinstance(await rig.login("opaque-token"), Unavailable)

    async def test_one_that_keeps_silent_is_given_up(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mailroot.net.https._TIMEOUT", 0.05)
        rig.introspect(None)
        verdict = await rig.login("opaque-token")
        assert isinstance(verdict, Unavailable)
        assert "no answer within" in verdict.reason


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "right"),
        [
            (OAuthSettings(audience="a"), "'issuer'.*'introspection'"),
            (OAuthSettings(audience="a", jwks="https://login.example/keys"), "'issuer'"),
            (OAuthSettings(issuer="https://login.example"), "'audience'"),
            (OAuthSettings(issuer="https://login.example", scope="SMTP.Send"), "'audience'"),
            (OAuthSettings(introspection="https://login.example/i", audience="a"), "'client_id'"),
            (
                OAuthSettings(introspection="https://login.example/i", audience="a", client_id="b"),
                "'client_secret'",
            ),
            (OAuthSettings(introspection="https://x.example/i", client_id="b", client_secret="c"), "'audience'"),
            (OAuthSettings(issuer="https://login.example", audience="a", client_id="b"), "'introspection'"),
            (OAuthSettings(issuer="https://login.example", audience="a", user_claim=""), "'user_claim'"),
            (OAuthSettings(issuer="http://login.example", audience="a"), "oauth.issuer: .*https://"),
            (OAuthSettings(issuer="login.example", audience="a"), "oauth.issuer: .*https://HOST/PATH"),
            (OAuthSettings(issuer="https://u:p@login.example", audience="a"), "oauth.issuer"),
            (OAuthSettings(issuer="https://[::1/", audience="a"), "oauth.issuer"),
            (OAuthSettings(issuer="https://a.example:x/", audience="a"), "oauth.issuer"),
            (OAuthSettings(issuer="http://127.0.0.1.example/", audience="a"), "oauth.issuer: .*https://"),
            (OAuthSettings(issuer="http://localhost/", audience="a"), "oauth.issuer: .*https://"),
            (OAuthSettings(issuer="https://a.example", audience="a", jwks="http://10.0.0.1/"), "oauth.jwks"),
            (
                OAuthSettings(issuer="https://a.example", audience="a", ca=Path("missing.pem")),
                "oauth.ca: missing.pem",
            ),
        ],
    )
    def test_what_cannot_work_says_what_would(self, settings: OAuthSettings, right: str) -> None:
        with pytest.raises(ValueError, match=right) as caught:
            Tokens(settings, ManualClock())
        assert settings.client_secret == "" or settings.client_secret not in str(caught.value).split("'")

    @pytest.mark.parametrize(
        "address", ["https://login.example", "http://127.0.0.1:8080/x", "http://[::1]/", "HTTPS://A/"]
    )
    def test_what_can(self, address: str) -> None:
        Tokens(OAuthSettings(issuer=address, audience="a"), ManualClock())
        Tokens(
            OAuthSettings(introspection=address, scope="SMTP.Send", client_id="b", client_secret="c"), ManualClock()
        )


def test_a_judgement_needs_no_network() -> None:
    wanted = Wanted("", "", "", ("sub",), complete=False)
    assert judge({"sub": "app"}, wanted, 0.0) == Granted("app")
