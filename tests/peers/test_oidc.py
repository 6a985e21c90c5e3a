"""Logins with tokens of a certified OpenID provider: oidc-provider, over TLS, with keys that it publishes."""

import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import jwt
import pytest

from mailroot.clock import SystemClock
from mailroot.policy.auth.base import Challenge, Channel, Denied, Granted, Step, Unavailable
from mailroot.policy.auth.oauth import Tokens
from mailroot.policy.auth.settings import OAuthSettings
from mailroot.smtp.sasl.oauth import write_oauthbearer, write_xoauth2
from rig.issuer import KEYS, public, unsigned
from rig.relay import Relay, free_port
from rig.sink import Sink

pytestmark = [pytest.mark.peer, pytest.mark.needs("oidc-provider")]

MODULES = Path(__file__).parents[2] / ".peers" / "node" / "node_modules"
AUDIENCE = "https://relay.example/smtp"
SCOPE = "SMTP.Send"
USER = "Reports@example.com"
CHANNEL = Channel(ip_address("192.0.2.7"), "relay.example", tls=True)


@dataclass
class Provider:
    """oidc-provider in a process of its own."""

    port: int
    ca: Path
    process: subprocess.Popen[str]

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def settings(self) -> OAuthSettings:
        """What an administrator would write to trust it."""
        return OAuthSettings(issuer=self.issuer, audience=AUDIENCE, scope=SCOPE, ca=self.ca)

    @property
    def introspection(self) -> OAuthSettings:
        """The same, for tokens that it has to be asked about."""
        return replace(
            self.settings,
            audience="",
            introspection=f"{self.issuer}/token/introspection",
            client_id="relay",
            client_secret=secret("relay"),
        )

    def token(self, *, opaque: bool = False, scope: str = SCOPE) -> str:
        """One that it makes for an application (RFC 6749 §4.4, RFC 8707)."""
        form = {"grant_type": "client_credentials", "scope": scope}
        answer = self.post("/token", form if opaque else form | {"resource": AUDIENCE})
        assert answer["token_type"] == "Bearer"
        return str(answer["access_token"])

    def revoke(self, token: str) -> None:
        """RFC 7009."""
        self.post("/token/revocation", {"token": token})

    def post(self, path: str, form: dict[str, str]) -> Any:
        with httpx.Client(verify=ssl.create_default_context(cafile=self.ca), trust_env=False) as client:
            login = ("application", quote_plus(secret("application")))
            answer = client.post(self.issuer + path, data=form, auth=login)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None


def secret(client: str) -> str:
    """As in issuer.mjs; with signs that have to be encoded."""
    return f'{client}: a "secret" of 100 %'


@pytest.fixture
def start_provider(
    certificate: tuple[Path, Path], program: Callable[[str], str]
) -> Iterator[Callable[..., Provider]]:
    """Starts oidc-provider: `start_provider(algorithm=…, jwks=…, seconds=…, port=…)`. It ends with the test."""
    running: list[Provider] = []

    def start(**settings: Any) -> Provider:
        settings = {
            "module": str(MODULES / "oidc-provider" / "lib" / "index.js"),
            "port": free_port(),
            "certificate": str(certificate[0]),
            "key": str(certificate[1]),
            "jwks": {"keys": [private("RS256", "first")]},
            "algorithm": "RS256",
            "audience": AUDIENCE,
            "scope": SCOPE,
            "user": USER,
            "seconds": 600,
        } | settings
        process = subprocess.Popen(
            ["node", str(Path(__file__).parent / "node" / "issuer.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        provider = Provider(settings["port"], certificate[0], process)
        running.append(provider)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(settings) + "\n")
        process.stdin.flush()
        said = []
        for line in process.stdout:
            if line == "ready\n":
                return provider
            said.append(line)
        raise AssertionError(f"oidc-provider ended with {process.wait(20)}: {''.join(said)}")

    yield start
    for provider in running:
        stop(provider)


def stop(provider: Provider) -> None:
    process = provider.process
    process.kill()
    process.wait(20)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def private(name: str, kid: str) -> dict[str, Any]:
    return public(name, private=True, kid=kid, use="sig", alg="RS256" if name == "other" else name)


@pytest.fixture
async def tokens() -> AsyncIterator[Callable[[OAuthSettings], Tokens]]:
    made: list[Tokens] = []

    def make(settings: OAuthSettings) -> Tokens:
        made.append(Tokens(settings, SystemClock()))
        return made[-1]

    yield make
    for one in made:
        await one.close()


Start = Callable[..., Provider]
Make = Callable[[OAuthSettings], Tokens]


async def login(tokens: Tokens, token: str, mechanism: str = "XOAUTH2", user: str = USER) -> Step:
    exchange = tokens.begin(mechanism, CHANNEL)
    write = write_xoauth2 if mechanism == "XOAUTH2" else write_oauthbearer
    step = await exchange.step(write(user, token))
    return await exchange.step(b"\x01") if isinstance(step, Challenge) else step


@pytest.mark.parametrize("algorithm", [name for name in KEYS if name != "other"])
async def test_its_signed_tokens_are_logins(start_provider: Start, tokens: Make, algorithm: str) -> None:
    # It wants an RSA key of its own beside others.
    keys = [private(algorithm, "first")] + ([] if algorithm == "RS256" else [private("RS256", "second")])
    provider = start_provider(algorithm=algorithm, jwks={"keys": keys})
    checked = tokens(provider.settings)
    token = provider.token()
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "typ": "at+jwt", "kid": "first"}
    for mechanism in ("XOAUTH2", "OAUTHBEARER"):
        assert await login(checked, token, mechanism) == Granted(USER)
    assert await login(checked, token, user="reports@EXAMPLE.com") == Granted(USER)
    assert isinstance(await login(checked, token, user="boss@example.com"), Denied)


async def test_bad_tokens_with_and_without_its_own_keys(start_provider: Start, tokens: Make) -> None:
    provider = start_provider()
    checked = tokens(provider.settings)
    good = provider.token()
    claims = jwt.decode(good, options={"verify_signature": False})
    assert claims["iss"] == provider.issuer
    assert claims["aud"] == AUDIENCE

    def forged(key: str = "RS256", kid: str = "first", **change: Any) -> str:
        return jwt.encode(claims | change, KEYS[key], "RS256", headers={"kid": kid, "typ": "at+jwt"})

    assert await login(checked, forged()) == Granted(USER)
    for token, reason in {
        forged(aud="https://other.example"): "not for the audience",
        forged(iss="https://localhost"): "another issuer",
        forged(iss=f"{provider.issuer}/"): "another issuer",
        forged(exp=claims["iat"] - 60): "expired",
        forged(nbf=claims["exp"]): "not valid yet",
        forged(scope="openid"): f"scope or role '{SCOPE}'",
        forged(key="other"): "signature is wrong",
        forged(key="other", kid="third"): "a key that its issuer does not have",
        unsigned(good): "not signed in a way that is accepted",
        f"{good[:-8]}AAAAAAAA": "signature is wrong",
    }.items():
        verdict = await login(checked, token)
        assert isinstance(verdict, Denied)
        assert reason in verdict.reason


async def test_it_can_be_away_and_come_back_with_other_keys(start_provider: Start, tokens: Make) -> None:
    provider = start_provider()
    checked = tokens(provider.settings)
    old = provider.token()
    assert await login(checked, old) == Granted(USER)
    stop(provider)
    assert await login(checked, old) == Granted(USER)
    never = await login(tokens(provider.settings), old)
    assert isinstance(never, Unavailable)
    assert f"{provider.issuer}/.well-known/openid-configuration: cannot be reached" in never.reason

    back = start_provider(port=provider.port, jwks={"keys": [private("other", "second")]}, algorithm="RS256")
    fresh = tokens(back.settings)
    assert await login(fresh, back.token()) == Granted(USER)
    assert isinstance(await login(fresh, old), Denied)


async def test_its_certificate_is_checked(start_provider: Start, tokens: Make) -> None:
    provider = start_provider()
    verdict = await login(tokens(replace(provider.settings, ca=None)), provider.token())
    assert isinstance(verdict, Unavailable)
    assert "CERTIFICATE_VERIFY_FAILED" in verdict.reason


async def test_its_opaque_tokens_are_asked_about(start_provider: Start, tokens: Make) -> None:
    provider = start_provider()
    checked = tokens(provider.introspection)
    token = provider.token(opaque=True)
    assert "." not in token
    for mechanism in ("XOAUTH2", "OAUTHBEARER"):
        assert await login(checked, token, mechanism) == Granted(USER)
    assert isinstance(await login(checked, token, user="boss@example.com"), Denied)
    for wrong in (f"{token[:-1]}_", "nonsense"):
        verdict = await login(checked, wrong)
        assert isinstance(verdict, Denied)
        assert "not active" in verdict.reason

    provider.revoke(token)
    assert await login(checked, token) == Granted(USER)  # for a minute
    assert isinstance(await login(tokens(provider.introspection), token), Denied)
    without = await login(tokens(replace(provider.introspection, scope="Mail.Read")), provider.token(opaque=True))
    assert isinstance(without, Denied)
    assert "scope" in without.reason


async def test_who_asks_has_to_be_known(start_provider: Start, tokens: Make) -> None:
    provider = start_provider()
    token = provider.token(opaque=True)
    verdict = await login(tokens(replace(provider.introspection, client_secret="wrong")), token)
    assert isinstance(verdict, Unavailable)
    assert verdict.reason.endswith("/token/introspection: the answer is 401")
    stop(provider)
    assert isinstance(await login(tokens(provider.introspection), token), Unavailable)


def curl(relay: Relay, provider: Provider, token: str) -> tuple[bool, str]:
    """Whether the message was taken, and the conversation. Of the two mechanisms it always takes OAUTHBEARER."""
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--verbose", "--ssl-reqd", "--cacert", str(provider.ca)),
            *("--user", USER, "--oauth2-bearer", token),
            *("--mail-from", USER, "--mail-rcpt", "bob@example.net", "--upload-file", "-"),
            f"smtp://{relay.host}:{relay.port}/client.example",
        ],
        input="Subject: By token\r\n\r\nText\r\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (0, 67), done.stderr  # 67: CURLE_LOGIN_DENIED
    return done.returncode == 0, done.stderr


def nodemailer(relay: Relay, provider: Provider, token: str) -> tuple[bool, str]:
    """The same by nodemailer, which knows XOAUTH2 alone."""
    told = {
        "module": str(MODULES / "nodemailer"),
        "host": relay.host,
        "port": relay.port,
        "ca": str(provider.ca),
        "user": USER,
        "token": token,
    }
    done = subprocess.run(
        ["node", str(Path(__file__).parent / "node" / "send.mjs")],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 or "refused: EAUTH 535" in done.stdout, done.stdout + done.stderr
    return done.returncode == 0, done.stdout


class TestAtTheWire:
    """A relay that takes mail from nobody but who has a token of this provider."""

    @pytest.fixture
    def open_relay(
        self,
        start_provider: Start,
        start_relay: Callable[..., Relay],
        certificate: tuple[Path, Path],
        sink: Sink,
        tmp_path: Path,
    ) -> Callable[..., tuple[Provider, Relay]]:
        def start(*, opaque: bool) -> tuple[Provider, Relay]:
            provider = start_provider()
            settings = provider.introspection if opaque else provider.settings
            oauth: dict[str, Any] = {name: str(value) for name, value in asdict(settings).items() if value}
            if opaque:
                (tmp_path / "secret").write_text(settings.client_secret)
                oauth |= {"client_secret": {"file": str(tmp_path / "secret")}}
            relay = start_relay(
                sink.port,
                {
                    "service": {"log": {"level": "debug"}},
                    "general": {"certificates": [{"file": str(certificate[0]), "key": str(certificate[1])}]},
                    "access": {"relay": {"list": []}, "authentication": {"oauth": oauth}},
                },
            )
            return provider, relay

        return start

    @pytest.mark.parametrize("opaque", [False, True])
    @pytest.mark.parametrize(
        ("client", "mechanism"),
        [
            pytest.param(curl, "OAUTHBEARER", marks=pytest.mark.needs("curl")),
            pytest.param(nodemailer, "XOAUTH2", marks=pytest.mark.needs("nodemailer")),
        ],
    )
    def test_a_client_with_a_token(
        self,
        open_relay: Callable[..., tuple[Provider, Relay]],
        sink: Sink,
        client: Callable[[Relay, Provider, str], tuple[bool, str]],
        mechanism: str,
        opaque: bool,
    ) -> None:
        provider, relay = open_relay(opaque=opaque)
        token = provider.token(opaque=opaque)
        taken, conversation = client(relay, provider, token)
        assert taken, conversation
        [received] = sink.wait()
        assert b" with ESMTPSA " in received.octets

        taken, conversation = client(relay, provider, f"{token}x")
        assert not taken
        # It was told why, and 535 came only after its answer to that (RFC 7628 §3.2.3).
        assert conversation.index("334 eyJzdGF0dXMi") < conversation.index("535 5.7.3 ")
        relay.stop()  # or what it has to say is not yet written
        said = relay.said()
        assert f"user={USER} mechanism={mechanism}" in said
        assert "LoginFailed" in said
        assert not any(part in said for part in token.split("."))
