"""What a token endpoint's refusal means, whose fault it is and what to do: pure, a table.

Numbers of Microsoft Entra as on learn.microsoft.com/entra/identity-platform/reference-error-codes in November 2026;
codes of RFC 6749 §5.2, RFC 8628 §3.5 and RFC 8707 §2; Google's by the texts it adds to them.
"""

import re
from dataclasses import dataclass

from mailroot.deliver.credentials.base import Fault

_NUMBER = re.compile(r"AADSTS(\d{5,9})")


@dataclass(frozen=True, slots=True)
class Explanation:
    """`words` say what is wrong and what to do. `retry`: it may pass by itself. `mailbox`: it is about the mailbox
    that was asked for, not about the program that asked."""

    code: str
    words: str
    fault: Fault = Fault.OURS
    retry: bool = False
    mailbox: bool = False


def explain(error: str, description: str, status: int) -> Explanation:
    """What a refusal means: `error` is its OAuth error ("" if it has none), `description` its text, `status` that
    of HTTP."""
    if status == 429 or error in ("slow_down", "too_many_requests"):
        return Explanation("throttled", "The token endpoint is asked too often.", Fault.THEIRS, retry=True)
    if status >= 500:
        words = f"The token endpoint has trouble of its own (it answers {status}); that passes."
        return Explanation(_code(error, status), words, Fault.THEIRS, retry=True)
    number = _NUMBER.search(description)
    if number is not None:
        code = f"AADSTS{number[1]}"
        for numbers, words in _OURS.items():
            if int(number[1]) in numbers:
                return Explanation(code, words)
        if int(number[1]) in _THEIRS:
            return Explanation(
                code, "Microsoft's sign-in service has trouble; that passes.", Fault.THEIRS, retry=True
            )
    else:
        code = _code(error, status)
    lower = description.lower()
    for (wanted, fragment), (words, mailbox) in _BY_TEXT.items():
        if error == wanted and fragment in lower:
            return Explanation(code, words, mailbox=mailbox)
    if error in _PASSING:
        return Explanation(
            code, "The token endpoint has trouble of its own; that passes.", Fault.THEIRS, retry=True
        )
    return Explanation(code, _BY_ERROR.get(error, _other(error, status)))


def _code(error: str, status: int) -> str:
    return error or f"http_{status}"


def _other(error: str, status: int) -> str:
    if error:
        return f"The token endpoint refuses ('{error}')."
    if status in (404, 405):
        return (
            f"There is no token endpoint at this address (it answers {status}). Compare the address, tenant and "
            "cloud."
        )
    return f"The token endpoint answers {status}, with nothing that says why."


_LOGIN_AGAIN = "Log in again with `mailroot route login`."

_OURS: dict[frozenset[int], str] = {
    frozenset({7000215, 70002}): (
        "The client secret is not one of this app's. Often its ID was copied in place of its value: make a new one "
        "under Certificates & secrets of the app registration, copy its value, and set it as client_secret."
    ),
    frozenset({7000222}): (
        "The client secret has expired. Make a new one under Certificates & secrets of the app registration, and "
        "set it as client_secret, with its end as secret_ends."
    ),
    frozenset({700016, 700011}): (
        "There is no such app in this tenant. Compare client_id with the Application (client) ID of the app "
        "registration, tenant with its Directory (tenant) ID, and cloud."
    ),
    frozenset({90002, 900023, 50128, 50059, 90013}): (
        "There is no such tenant. Compare tenant with the Directory (tenant) ID on the app registration's "
        "overview, and cloud."
    ),
    frozenset({90038, 90043, 50049}): "The tenant is in another national cloud. Set cloud to the one it is in.",
    frozenset({65001, 65004, 65005, 650056}): (
        "Nobody has consented to what the app asks for. An administrator grants it under API permissions of the "
        "app registration: SMTP.SendAsApp of Office 365 Exchange Online for a program's own login, SMTP.Send "
        "(delegated) for a login by code."
    ),
    frozenset({70000, 70008, 700082, 700084, 70043, 50089, 50085}): (
        f"The stored login is no longer good: its refresh token has expired or was revoked. {_LOGIN_AGAIN}"
    ),
    frozenset({50173, 50132, 50133}): (
        f"The stored login was revoked, as by a new password of the account. {_LOGIN_AGAIN}"
    ),
    frozenset({50072, 50074, 50076, 50078, 50079, 50097, 50158}): (
        f"The tenant wants a second factor before it goes on. {_LOGIN_AGAIN} If that returns often, a Conditional "
        "Access policy with a sign-in frequency is behind it; a program's own login (client credentials) has no "
        "such limit."
    ),
    frozenset({53000, 53001, 53002, 53003, 53004, 530035, 530034, 53011, 50131, 50005, 50105}): (
        "A policy of the tenant (Conditional Access, security defaults or assignment) does not let this login "
        "pass. Its administrator finds which in the sign-in logs, and can except the app or the account."
    ),
    frozenset({50055, 50144, 50135}): f"The account's password has expired. Set a new one. {_LOGIN_AGAIN}",
    frozenset({50057}): "The account is disabled. Enable it, or log in with another one.",
    frozenset({50053}): (
        "The account is locked, or logins from this address are blocked. The sign-in logs say which."
    ),
    frozenset({50020, 50034, 51004, 50014, 16003}): (
        "The account is not in this tenant. Compare the account and tenant."
    ),
    frozenset({7000112, 70001}): "The app is disabled in this tenant. Enable it under Enterprise applications.",
    frozenset({700027, 50012, 50013, 700030, 50003, 50006, 7000214}): (
        "The certificate is not one of this app's. Upload the one that is set (its public part) under Certificates "
        "& secrets of the app registration, and compare client_id."
    ),
    frozenset({700024, 500133}): (
        "The signed request is not within its time. The clock of this computer is probably wrong: set it."
    ),
    frozenset({50027, 50048, 700021, 700023, 90004, 90014, 900144, 90023, 9002313}): (
        "The request is not in the form that Microsoft wants. Compare authority, tenant and client_id."
    ),
    frozenset({7000218}): (
        "The app is not set up for logins by code: allow public client flows under Authentication of the app "
        "registration. Where it is to have a login of its own, set client_secret or certificate."
    ),
    frozenset({700025}): "The app is a public one: leave client_secret and certificate out.",
    frozenset({50194, 9001023}): "This app cannot be used by 'common': set tenant to the Directory (tenant) ID.",
    frozenset({500011, 50001, 650052, 650057, 650054}): (
        "What the token is to be for is not known in this tenant. Compare cloud and scope; there has to be a "
        "subscription with Exchange Online, and the app needs a permission of it."
    ),
    frozenset({70011, 28002, 28003, 1002012}): (
        "The scope is not right. It ends in '/.default' for a program's own login; leave scope out unless the "
        "cloud has another one."
    ),
    frozenset({70003}): "This app or tenant does not allow this way to log in.",
    frozenset({50196}): (
        "Microsoft takes our requests for a loop and refuses them for a while. Look for other programs that use "
        "the same client_id."
    ),
}  # fmt: skip

_THEIRS = frozenset(
    {50000, 50033, 50087, 50088, 70012, 90006, 90012, 90024, 90033, 90055, 80001, 80002, 80005, 40010}
)

_PASSING = frozenset({"temporarily_unavailable", "server_error"})

_NOT_DELEGATED = (
    "The service account may not act for this mailbox. In Google's Admin console under Security, API controls, "
    "Domain-wide delegation, its client ID needs the scope https://mail.google.com/; and the mailbox has to be in "
    "that Workspace."
)
_NO_MAILBOX = "There is no such mailbox in this Google Workspace. Set a rule under mailboxes for this sender."
_OLD_KEY = (
    "The service account's key is no longer good. Make a new one in Google Cloud under IAM, Service accounts, "
    "Keys, and set its file as key_file."
)
_NO_ACCOUNT = (
    "The service account does not exist any more. Make one, with domain-wide delegation, and set its key_file."
)
_CLOCK = "The signed request is not within its time. The clock of this computer is probably wrong: set it."
_NO_IDENTITY = (
    "This computer has no managed identity, or none with this client_id. Switch it on under Identity in Azure's "
    "portal, or compare client_id."
)

_BY_TEXT: dict[tuple[str, str], tuple[str, bool]] = {
    ("unauthorized_client", "client is unauthorized to retrieve access tokens"): (_NOT_DELEGATED, False),
    ("invalid_grant", "invalid email or user id"): (_NO_MAILBOX, True),
    ("invalid_grant", "not a valid email"): (_NO_MAILBOX, True),
    ("invalid_grant", "invalid jwt signature"): (_OLD_KEY, False),
    ("invalid_grant", "account not found"): (_NO_ACCOUNT, False),
    ("invalid_grant", "short-lived token"): (_CLOCK, False),
    ("invalid_request", "identity not found"): (_NO_IDENTITY, False),
}

_BY_ERROR = {
    "invalid_client": (
        "The token endpoint does not know the client, or its secret or certificate is wrong. Compare client_id and "
        "what proves it."
    ),
    "invalid_grant": f"The stored login or its consent is no longer good. {_LOGIN_AGAIN}",
    "unauthorized_client": (
        "The client is not allowed this way to get tokens. Allow it where the client is registered."
    ),
    "invalid_scope": "The scope is not known or not allowed for this client. Compare scope.",
    "invalid_target": "What the token is to be for is not known or not allowed. Compare resource and audience.",
    "invalid_resource": "What the token is to be for is not known or not allowed. Compare resource and scope.",
    "invalid_request": "The token endpoint does not take the request. Compare its address, client_id and scope.",
    "unsupported_grant_type": (
        "The token endpoint does not know this way to get tokens. Compare its address and grant."
    ),
    "interaction_required": f"The issuer wants somebody to log in. {_LOGIN_AGAIN}",
    "login_required": f"The issuer wants somebody to log in. {_LOGIN_AGAIN}",
    "consent_required": f"The issuer wants somebody's consent. {_LOGIN_AGAIN}",
    "access_denied": "Whoever logged in said no, or may not say yes. Log in again, as the account that is to send.",
    "authorization_declined": "Whoever logged in said no. Log in again, as the account that is to send.",
    "expired_token": "Nobody entered the code in time. Begin the login again.",
    "bad_verification_code": "The code was not one of this login's. Begin the login again.",
    "deleted_client": "The client was deleted. Register it again, and set its client_id.",
    "disabled_client": "The client is disabled. Enable it where it is registered.",
    "admin_policy_enforced": (
        "A policy of the Google Workspace does not let this client pass. Its administrator can."
    ),
}  # fmt: skip
