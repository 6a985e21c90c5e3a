"""PLAIN, LOGIN and EXTERNAL: what the server reads is what the client wrote, and what it does not take."""

import pytest

from mailroot.smtp.sasl.base import Credentials, Mechanism, SaslError
from mailroot.smtp.sasl.external import External, read_external
from mailroot.smtp.sasl.login import PASSWORD_CHALLENGE, USERNAME_CHALLENGE, Login, read_login
from mailroot.smtp.sasl.plain import Plain, read_plain

pytestmark = pytest.mark.quick


def test_plain() -> None:
    assert read_plain(Plain("ann", "sécret").initial()) == Credentials("ann", "sécret")
    assert read_plain(b"other\0ann\0secret") == Credentials("ann", "secret", "other")
    assert "secret" not in repr(Credentials("ann", "secret"))


@pytest.mark.parametrize("message", [b"", b"ann\0secret", b"\0\0secret", b"\0ann\0se\0cret", b"\0ann\0\xe9"])
def test_plain_that_is_none(message: bytes) -> None:
    with pytest.raises(SaslError) as caught:
        read_plain(message)
    assert caught.value.__cause__ is None
    assert "secret" not in str(caught.value)


def test_login() -> None:
    client = Login("ann", "sécret")
    assert [read_login(client.respond(c)) for c in (USERNAME_CHALLENGE, PASSWORD_CHALLENGE)] == ["ann", "sécret"]


def test_login_by_old_programs_of_western_europe() -> None:
    assert read_login(b"gr\xf6\xdfe \x80") == "größe €"


def test_external() -> None:
    assert read_external(External().initial()) == ""
    assert read_external(External("ann").initial()) == "ann"
    for message in (b"\xff", b"a\0b"):
        with pytest.raises(SaslError):
            read_external(message)


def test_what_needs_no_proof_is_proven() -> None:
    mechanisms: tuple[Mechanism, ...] = (Plain("", ""), Login("", ""), External())
    assert all(mechanism.proven for mechanism in mechanisms)
