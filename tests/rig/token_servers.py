"""Issuers of access tokens for our own logins, over HTTP on 127.0.0.1, that check what the real ones check.

`Entra` is Microsoft's token and device-code endpoints, `Google` a service account's, `AzureIdentity` the doors to
managed identities. They answer in the words of the real ones. Each can be down, silent, slow or out of its mind:
`answer`. Start them in the event loop of the test.
"""

import asyncio
import hashlib
import json
import secrets
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from mailroot.clock import Clock
from rig.authority import Issued

_KEY = rsa.generate_private_key(65537, 2048)
TENANT = "8f6e0f3c-0a4e-4c5b-9a55-7f2a3d1e5b10"
APP = "2d4d3d8e-2be3-4bef-9f87-7875a61c29de"
EXCHANGE = "https://outlook.office365.com"
DELEGATED = "https://outlook.office.com"


@dataclass
class Request:
    """What was asked. Names of header fields are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    fields: dict[str, str]
    form: dict[str, str]


@dataclass
class Reply:
    """What is answered: an object as JSON, or octets as they are."""

    body: Any
    status: int = 200
    fields: dict[str, str] = field(default_factory=dict)

    def octets(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        told = {"Content-Type": "application/json", "Content-Length": str(len(body))} | self.fields
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        return f"HTTP/1.1 {self.status} Some\r\n{head}\r\n".encode() + body


class WebServer:
    """As an asynchronous context. `address` is "http://127.0.0.1:PORT"."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.address = ""
        self.requests: list[Request] = []
        self.asked: Counter[str] = Counter()
        self.answer: Reply | bytes | None = None
        """In place of what would be answered, if set; b"" for silence."""
        self.down = False
        self.hold: asyncio.Event | None = None
        """Answers wait for it, if set."""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._served: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Any:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        if self.hold is not None:
            self.hold.set()
        for writer in self._open:
            writer.close()
        await asyncio.gather(*filter(None, self._served))

    def respond(self, request: Request) -> Reply:
        raise NotImplementedError

    @property
    def count(self) -> int:
        return len(self.requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self._served.add(asyncio.current_task())
        try:
            while not self.down:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                fields = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
                }
                form = (await reader.readexactly(int(fields.get("content-length", 0)))).decode()
                parts = urlsplit(target)
                request = Request(method, parts.path, _single(parts.query), fields, _single(form))
                if self.down:
                    break
                self.requests.append(request)
                self.asked[parts.path] += 1
                if self.hold is not None:
                    await self.hold.wait()
                answer = self.respond(request) if self.answer is None else self.answer
                writer.write(answer.octets() if isinstance(answer, Reply) else answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()


def _single(text: str) -> dict[str, str]:
    read = parse_qs(text, keep_blank_values=True)
    assert all(len(values) == 1 for values in read.values()), "a field twice"
    return {name: values[0] for name, values in read.items()}


class Refusal(Exception):
    """What a check did not let pass."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.reply = Reply({"error": error, "error_description": description}, status)


@dataclass
class App:
    """An app registration. `secrets` by value: when each ends. `certificates` by their x5t#S256."""

    secrets: dict[str, float] = field(default_factory=dict)
    certificates: dict[str, Issued] = field(default_factory=dict)
    public_flows: bool = False
    consented: bool = True
    enabled: bool = True
    roles: list[str] = field(default_factory=lambda: ["SMTP.SendAsApp"])

    def trust(self, certificate: Issued) -> None:
        digest = hashlib.sha256(certificate.der).digest()
        self.certificates[urlsafe_b64encode(digest).rstrip(b"=").decode()] = certificate


class Entra(WebServer):
    """Microsoft's sign-in service, with one tenant and one app in it."""

    def __init__(self, clock: Clock, *, life: float = 3599) -> None:
        super().__init__(clock)
        self.apps = {APP: App()}
        self.life = life
        self.refresh_tokens: dict[str, str] = {}
        """Those that are good: whose each is."""
        self.dead: dict[str, str] = {}
        """Those that were good: the error that each gives now."""
        self.codes: dict[str, str] = {}
        """Device codes: "" while nobody entered it, else whose login it became, or "no"."""
        self.issued: list[str] = []
        self._assertions: set[str] = set()

    @property
    def app(self) -> App:
        return self.apps[APP]

    def accepts(self, token: str, audience: str = EXCHANGE, role: str = "SMTP.SendAsApp") -> bool:
        """Whether Exchange Online would let this token in."""
        claims = jwt.decode(
            token,
            _KEY.public_key(),
            ["RS256"],
            audience=audience,
            options={"verify_exp": False, "verify_nbf": False},
        )
        return (
            claims["tid"] == TENANT
            and (role in claims.get("roles", ()) or role in claims.get("scp", "").split())
            and claims["nbf"] <= self.clock.now() < claims["exp"]
        )

    def respond(self, request: Request) -> Reply:
        try:
            _, tenant, *rest = request.path.split("/")
            if tenant != TENANT:
                raise _microsoft(
                    "invalid_request",
                    f"AADSTS90002: Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID "
                    "and are signing into the correct cloud.",
                )
            match rest:
                case ["oauth2", "v2.0", "token"]:
                    return Reply(self._token(request))
                case ["oauth2", "v2.0", "devicecode"]:
                    return Reply(self._device_code(request))
            return Reply(b"<html>not here</html>", 404)
        except Refusal as refusal:
            return refusal.reply

    def _token(self, request: Request) -> dict[str, Any]:
        assert request.method == "POST"
        assert not request.query, "a secret in an address"
        form = request.form
        client = form.get("client_id", "")
        app = self.apps.get(client)
        if app is None:
            raise _microsoft(
                "unauthorized_client",
                f"AADSTS700016: Application with identifier '{client}' was not found in the directory 'Contoso'. "
                "This can happen if the application has not been installed by the administrator of the tenant.",
            )
        if not app.enabled:
            raise _microsoft("unauthorized_client", f"AADSTS7000112: Application '{client}'(Relay) is disabled.")
        proven = self._prove(app, form, f"{self.address}{request.path}")
        match form.get("grant_type"):
            case "client_credentials":
                if not proven:
                    raise _no_proof()
                resource = form.get("scope", "").removesuffix("/.default")
                if resource == form.get("scope"):
                    raise _microsoft(
                        "invalid_scope",
                        f"AADSTS1002012: The provided value for scope {form.get('scope')} is not valid. Client "
                        "credential flows must have a scope value with /.default suffixed to the resource.",
                    )
                if resource not in (EXCHANGE, "https://graph.microsoft.com"):
                    raise _microsoft(
                        "invalid_resource",
                        f"AADSTS500011: The resource principal named {resource} was not found in the tenant.",
                    )
                return self._issue(resource, roles=app.roles)
            case "refresh_token":
                return self._refresh(app, form)
            case "urn:ietf:params:oauth:grant-type:device_code":
                return self._finish(app, form)
        raise _microsoft("unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type.")

    def _prove(self, app: App, form: dict[str, str], address: str) -> bool:
        if "client_secret" in form:
            ends = app.secrets.get(form["client_secret"])
            if ends is None:
                raise _microsoft(
                    "invalid_client",
                    "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is "
                    f"the client secret value, not the client secret ID, for a secret added to app '{APP}'.",
                    401,
                )
            if ends <= self.clock.now():
                raise _microsoft(
                    "invalid_client",
                    f"AADSTS7000222: The provided client secret keys for app '{APP}' are expired. Visit the Azure "
                    "portal to create new keys for your app: https://aka.ms/NewClientSecret",
                    401,
                )
            return True
        if "client_assertion" in form:
            self._check_assertion(app, form, address)
            return True
        return False

    def _check_assertion(self, app: App, form: dict[str, str], address: str) -> None:
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        assertion = form["client_assertion"]
        header = jwt.get_unverified_header(assertion)
        certificate = app.certificates.get(header.get("x5t#S256", ""))
        if certificate is None:
            raise _microsoft(
                "invalid_client",
                "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered "
                "on application. [Reason - The key was not found.]",
                401,
            )
        assert header["alg"] in ("PS256", "RS256")
        try:
            claims = jwt.decode(
                assertion,
                certificate.certificate.public_key(),
                [header["alg"]],
                audience=address,
                issuer=form["client_id"],
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.InvalidSignatureError:
            raise _microsoft(
                "invalid_client", "AADSTS700027: Client assertion failed signature validation.", 401
            ) from None
        assert claims["sub"] == form["client_id"]
        now = self.clock.now()
        if not claims["nbf"] - 300 <= now < claims["exp"] or claims["exp"] - claims["nbf"] > 600:
            raise _microsoft(
                "invalid_client",
                "AADSTS700024: Client assertion is not within its valid time range. Current time: 2026-11-24",
                401,
            )
        assert claims["jti"] not in self._assertions, "an assertion twice"
        self._assertions.add(claims["jti"])

    def _refresh(self, app: App, form: dict[str, str]) -> dict[str, Any]:
        old = form.get("refresh_token", "")
        if not app.consented:
            raise _microsoft(
                "invalid_grant",
                f"AADSTS65001: The user or administrator has not consented to use the application with ID '{APP}' "
                "named 'Relay'. Send an interactive authorization request for this user and resource.",
            )
        if old in self.dead:
            raise _microsoft("invalid_grant", self.dead[old])
        if old not in self.refresh_tokens:
            raise _microsoft(
                "invalid_grant", f"AADSTS70000: The provided value for 'refresh_token' is not valid: {old}"
            )
        return self._delegated(form, self.refresh_tokens[old])

    def _device_code(self, request: Request) -> dict[str, Any]:
        form = request.form
        if form.get("client_id") not in self.apps:
            raise _microsoft("unauthorized_client", "AADSTS700016: Application was not found in the directory.")
        assert "offline_access" in form["scope"].split()
        code = f"D{secrets.token_urlsafe(40)}"
        self.codes[code] = ""
        return {
            "user_code": "FJC3BQ7RN",
            "device_code": code,
            "verification_uri": "https://microsoft.com/devicelogin",
            "expires_in": 900,
            "interval": 5,
            "message": "To sign in, use a web browser to open the page …",
        }

    def _finish(self, app: App, form: dict[str, str]) -> dict[str, Any]:
        if not app.public_flows:
            raise _no_proof()
        whose = self.codes.get(form["device_code"])
        if whose is None:
            raise _microsoft("bad_verification_code", "AADSTS70018: Invalid verification code.")
        if not whose:
            raise _microsoft(
                "authorization_pending",
                "AADSTS70016: OAuth 2.0 device flow error. Authorization is pending. Continue polling.",
            )
        del self.codes[form["device_code"]]
        if whose == "no":
            raise _microsoft("authorization_declined", "The user declined to say yes.")
        return self._delegated(form | {"scope": f"{DELEGATED}/SMTP.Send offline_access"}, whose)

    def _delegated(self, form: dict[str, str], whose: str) -> dict[str, Any]:
        if f"{DELEGATED}/SMTP.Send" not in form.get("scope", "").split():
            raise _microsoft(
                "invalid_scope", "AADSTS70011: The provided value for the input parameter 'scope' is not valid."
            )
        refresh = f"1.{secrets.token_urlsafe(60)}"
        self.refresh_tokens[refresh] = whose
        return self._issue(DELEGATED, scp="SMTP.Send", upn=whose) | {"refresh_token": refresh}

    def _issue(self, resource: str, **claims: Any) -> dict[str, Any]:
        now = int(self.clock.now())
        said = {"aud": resource, "tid": TENANT, "appid": APP, "iss": f"https://sts.windows.net/{TENANT}/"}
        said |= {"iat": now, "nbf": now - 300, "exp": now + int(self.life), "jti": secrets.token_hex(8)}
        token = jwt.encode(said | claims, _KEY, "RS256", {"typ": "JWT"})
        self.issued.append(token)
        answer = {"token_type": "Bearer", "expires_in": int(self.life), "ext_expires_in": int(self.life)}
        return answer | {"access_token": token}


def _microsoft(error: str, description: str, status: int = 400) -> Refusal:
    traced = (
        f"{description} Trace ID: 8d6bbb5c-8b4a-44f3-9b5e-2b7c0f3a4f00 Correlation ID: "
        "0e6cf2f4-2c4b-4f4c-a1a6-1b6d5a1c6f5a Timestamp: 2026-11-24 05:00:00Z"
    )
    return Refusal(error, traced, status)


def _no_proof() -> Refusal:
    return _microsoft(
        "invalid_client",
        "AADSTS7000218: The request body must contain the following parameter: 'client_assertion' or "
        "'client_secret'.",
        401,
    )


class Google(WebServer):
    """Google's token endpoint, with one service account that may act for the mailboxes of one Workspace."""

    ACCOUNT = "relay@project.iam.gserviceaccount.com"
    SCOPE = "https://mail.google.com/"

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.key = rsa.generate_private_key(65537, 2048)
        self.key_id = "0123456789abcdef0123456789abcdef01234567"
        self.keys = {self.key_id: self.key.public_key()}
        self.mailboxes = {"ann@example.com", "bob@example.com", "relay@example.com"}
        self.domain = "example.com"
        self.delegated = True
        self.given: dict[str, str] = {}
        """Tokens: whose each is."""

    @property
    def token_uri(self) -> str:
        return f"{self.address}/token"

    def key_file(self, **changes: str) -> str:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        content = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": self.key_id,
            "private_key": pem,
            "client_email": self.ACCOUNT,
            "client_id": "104857600000000000000",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": self.token_uri,
        }
        return json.dumps(content | changes)

    def respond(self, request: Request) -> Reply:
        try:
            return Reply(self._token(request.form))
        except Refusal as refusal:
            return refusal.reply

    def _token(self, form: dict[str, str]) -> dict[str, Any]:
        assert set(form) == {"grant_type", "assertion"}
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        header = jwt.get_unverified_header(form["assertion"])
        key = self.keys.get(header.get("kid", ""))
        try:
            if key is None or header["alg"] != "RS256":
                raise jwt.InvalidSignatureError
            claims = jwt.decode(
                form["assertion"],
                key,
                ["RS256"],
                audience=self.token_uri,
                options={"verify_exp": False, "verify_iat": False, "verify_sub": False},
            )
        except jwt.InvalidSignatureError:
            raise Refusal("invalid_grant", "Invalid JWT Signature.") from None
        if claims["iss"] != self.ACCOUNT:
            raise Refusal("invalid_grant", "Invalid grant: account not found")
        now = self.clock.now()
        if not claims["iat"] - 300 <= now < claims["exp"] or claims["exp"] - claims["iat"] > 3600:
            raise Refusal(
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check "
                "your iat and exp values in the JWT claim.",
            )
        if claims["scope"] != self.SCOPE:
            raise Refusal("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        if not self.delegated or not claims["sub"].lower().endswith(f"@{self.domain}"):
            raise Refusal(
                "unauthorized_client",
                "Client is unauthorized to retrieve access tokens using this method, or client not authorized for "
                "any of the scopes requested.",
                401,
            )
        if claims["sub"].lower() not in self.mailboxes:
            raise Refusal("invalid_grant", "Invalid email or User ID")
        token = f"ya29.{secrets.token_urlsafe(90)}"
        self.given[token] = claims["sub"].lower()
        return {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}


class AzureIdentity(WebServer):
    """The doors to managed identities: the metadata service, App Service's, and Azure Arc's with its proof."""

    HEADER = "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a"

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.resource = EXCHANGE
        self.identities = {""}
        self.proof_file = ""
        self.new_proof: Callable[[], str] = lambda: ""
        self.token = "eyJmYWtlIjoidG9rZW4ifQ.eyJhdWQiOiJ4In0.c2ln"
        self.life = 86399
        self._proof = ""

    def respond(self, request: Request) -> Reply:
        assert request.method == "GET"
        ends = str(int(self.clock.now()) + self.life)
        answer = {"access_token": self.token, "token_type": "Bearer", "resource": self.resource, "expires_on": ends}
        if request.query.get("resource") != self.resource:
            return Reply({"error": "invalid_resource", "error_description": "AADSTS500011: The resource …"}, 400)
        known = request.query.get("client_id", "") in self.identities
        match unquote(request.path):
            case "/metadata/identity/oauth2/token" if request.query["api-version"] == "2018-02-01":
                if request.fields.get("metadata") != "true":
                    return Reply({"error": "invalid_request", "error_description": "Required metadata header"}, 400)
                if not known:
                    return Reply({"error": "invalid_request", "error_description": "Identity not found"}, 400)
                return Reply(answer | {"expires_in": str(self.life)})
            case "/msi/token" if request.query["api-version"] == "2019-08-01":
                if request.fields.get("x-identity-header") != self.HEADER:
                    return Reply({"statusCode": 401, "message": "Unauthorized"}, 401)
                if not known:
                    return Reply(
                        {"statusCode": 400, "message": "No User Assigned or Delegated Managed Identity found"}, 400
                    )
                return Reply(answer)
            case "/arc/token" if request.query["api-version"] == "2020-06-01":
                given = request.fields.get("authorization", "")
                if not self._proof or given != f"Basic {self._proof}":
                    self._proof = self.new_proof()
                    challenge = {"WWW-Authenticate": f"Basic realm={self.proof_file}"}
                    return Reply({"error": "unauthorized_client"}, 401, challenge)
                self._proof = ""
                return Reply(answer | {"expires_in": str(self.life)})
        return Reply(b"", 404)
