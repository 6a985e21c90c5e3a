"""SCRAM-SHA-256 (RFC 5802, RFC 7677): the example of the RFC, both sides against each other, and who lies."""

from base64 import b64decode, b64encode
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.smtp.sasl.base import BindingMismatch, SaslError, ServerUntrusted
from mailroot.smtp.sasl.scram import Scram, ScramPlus, ScramServer, Verifier

pytestmark = pytest.mark.quick

SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
PENCIL = Verifier.of("pencil", SALT, 4096)
UNIQUE = ("tls-unique", b"\x01finished")
END_POINT = ("tls-server-end-point", bytes(range(32)))


def talk(client: Scram, server: ScramServer, verifier: Verifier = PENCIL) -> tuple[str, bool]:
    """The whole exchange; the name the server saw, and whether it believed."""
    user = server.first(client.initial())
    proof = server.final(client.respond(server.challenge(verifier)))
    if proof is None:
        return user, False
    assert client.respond(proof) == b""
    assert client.proven
    return user, True


def test_the_rfcs_example_from_the_servers_side() -> None:
    server = ScramServer("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert server.first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == "user"
    assert server.challenge(PENCIL) == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert (
        server.final(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        )
        == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )


def test_the_rfcs_example_from_the_clients_side() -> None:
    client = Scram("user", "pencil", "rOprNGfwEbeRWgbNEkqO")
    assert client.initial() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    final = client.respond(
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert final.endswith(b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert not client.proven
    assert client.respond(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=") == b""
    assert client.proven


@pytest.mark.parametrize("binding", [UNIQUE, END_POINT])
def test_plus_is_bound_to_the_connection(binding: tuple[str, bytes]) -> None:
    server = ScramServer("s", plus=True, plus_offered=True, bindings=(UNIQUE, END_POINT))
    assert talk(ScramPlus("user", "pencil", "c", binding), server) == ("user", True)


def test_a_login_relayed_from_another_connection_is_refused() -> None:
    client = ScramPlus("user", "pencil", "c", ("tls-unique", b"the attacker's own"))
    server = ScramServer("s", plus=True, plus_offered=True, bindings=(UNIQUE,))
    with pytest.raises(BindingMismatch, match="not that of this connection"):
        talk(client, server)


def test_a_client_from_whom_plus_was_hidden_is_refused() -> None:
    """RFC 5802 §6: "y" says that it could have bound, and saw no -PLUS."""
    with pytest.raises(BindingMismatch, match="not shown"):
        talk(Scram("user", "pencil", "c", could_bind=True), ScramServer("s", plus_offered=True))
    assert talk(Scram("user", "pencil", "c", could_bind=True), ScramServer("s")) == ("user", True)


def test_the_flag_cannot_be_changed_on_the_way() -> None:
    client = Scram("user", "pencil", "c", could_bind=True)
    server = ScramServer("s", plus_offered=True)
    server.first(client.initial().replace(b"y,,", b"n,,"))
    with pytest.raises(BindingMismatch):
        server.final(client.respond(server.challenge(PENCIL)))


def test_a_wrong_password_gets_no_proof_and_no_secret() -> None:
    assert talk(Scram("user", "pen", "c"), ScramServer("s")) == ("user", False)


def test_names_with_comma_and_equals_sign() -> None:
    assert talk(Scram("a,b=c", "pencil", "c"), ScramServer("s")) == ("a,b=c", True)


def test_passwords_are_prepared_on_both_sides() -> None:
    verifier = Verifier.of("\u2168\u00ad", SALT, 4096)
    assert talk(Scram("user", "IX", "c"), ScramServer("s"), verifier) == ("user", True)


def test_whom_it_wants_to_act_as() -> None:
    server = ScramServer("s")
    assert server.first(b"n,a=o=2Cther,n=user,r=c") == "user"
    assert server.authzid == "o,ther"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=user",
        b"n,,n=,r=c",
        b"n,,n=us=er,r=c",
        b"n,,n=us=2cer,r=c",
        b"n,,r=c,n=user",
        b"n,,n=user,r=",
        b"n,,n=user,r=a b",
        b"n,,n=user,r=\xc3\xa4",
        b"n,,m=new,n=user,r=c",
        b"x,,n=user,r=c",
        b"p=,,n=user,r=c",
        b"p=tls-unique,,n=user,r=c",
        b"n,b=user,n=user,r=c",
        b"n,,n=us\0er,r=c",
        b"n,,n=user,r=\xff",
        b"n,,n=user,r=" + b"c" * 5000,
        b"n,,n=user,r=" + b"c" * 600,
    ],
)
def test_a_first_message_that_is_none(message: bytes) -> None:
    with pytest.raises(SaslError) as caught:
        ScramServer("s").first(message)
    assert not isinstance(caught.value, BindingMismatch)


@pytest.mark.parametrize("message", [b"n,,n=user,r=c", b"y,,n=user,r=c", b"p=tls-exporter,,n=user,r=c"])
def test_plus_wants_a_binding_that_there_is(message: bytes) -> None:
    with pytest.raises(SaslError):
        ScramServer("s", plus=True, plus_offered=True, bindings=(UNIQUE,)).first(message)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"p=",
        b"c=biws,r=cs",
        b"c=biws,r=cs,p=%",
        b"c=biws,r=cs,p=YQ==",
        b"c=biws,r=cx,p=" + b64encode(bytes(32)),
        b"c=%,r=cs,p=" + b64encode(bytes(32)),
        b"r=cs,c=biws,p=" + b64encode(bytes(32)),
    ],
)
def test_a_final_message_that_is_none(message: bytes) -> None:
    server = ScramServer("s")
    server.first(b"n,,n=user,r=c")
    server.challenge(PENCIL)
    with pytest.raises(SaslError):
        server.final(message)


@given(st.binary(max_size=200))
def test_no_octets_break_the_server(message: bytes) -> None:
    for plus in (False, True):
        server = ScramServer("s", plus=plus, plus_offered=True, bindings=(UNIQUE,))
        try:
            server.first(message)
        except SaslError:
            server = ScramServer("s")
            server.first(b"n,,n=user,r=c")
        server.challenge(PENCIL)
        with suppress(SaslError):
            assert server.final(message) is None


FIRST = b"r=cs,s=W22ZaJ0SNY7soEsUEjb6gQ==,i="


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r=cs",
        b"r=xs,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=c,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        FIRST + b"4095",
        FIRST + b"600001",
        FIRST + b"99999999999999999999",
        FIRST + b"-1",
        FIRST + "४०९६".encode(),
        b"r=cs,s=%,i=4096",
        b"e=unknown-user",
        b"\xff",
    ],
)
def test_a_server_that_cannot_be_trusted(challenge: bytes) -> None:
    client = Scram("user", "pencil", "c")
    client.initial()
    with pytest.raises(ServerUntrusted):
        client.respond(challenge)
    assert not client.proven


@pytest.mark.parametrize("last", [b"v=" + b64encode(bytes(32)), b"e=invalid-proof", b"", b"v=", b"v=%"])
def test_a_server_that_does_not_know_the_password(last: bytes) -> None:
    client = Scram("user", "pencil", "c")
    server = ScramServer("s")
    server.first(client.initial())
    client.respond(server.challenge(PENCIL))
    with pytest.raises(ServerUntrusted):
        client.respond(last)
    assert not client.proven


def test_nothing_shows_a_secret() -> None:
    assert "pencil" not in repr(Scram("user", "pencil", "c"))
    assert "stored_key" not in repr(PENCIL)
