"""Passwords checked by a directory, without one: names, addresses, octets, and a directory that behaves badly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.policy.auth import ldap_messages as messages
from mailroot.policy.auth.base import Denied, Granted, Unavailable, Verdict
from mailroot.policy.auth.ldap import Directory, Server, account_name, bind_name, escape, read_url
from mailroot.policy.auth.settings import LdapSettings

pytestmark = pytest.mark.quick

PEOPLE = "uid={user},ou=people,dc=example,dc=com"
DN = "uid=ann,ou=people,dc=example,dc=com"
UPN = "{user}@corp.example"


class TestNames:
    @pytest.mark.parametrize(
        ("value", "escaped"),
        [
            ("ann", "ann"),
            ("Grüße", "Grüße"),
            ("a.b-c_d@example.com", "a.b-c_d@example.com"),
            ("ann,ou=admins", "ann\\2cou\\3dadmins"),
            ("ann+cn=root", "ann\\2bcn\\3droot"),
            ('a"b\\c<d>e;f#g', "a\\22b\\5cc\\3cd\\3ee\\3bf\\23g"),
            ("James Smith", "James\\20Smith"),
            ("*", "*"),
            ("a)(uid=*", "a)(uid\\3d*"),
        ],
    )
    def test_a_name_stays_one_value_of_a_dn(self, value: str, escaped: str) -> None:
        assert escape(value) == escaped
        assert bind_name(PEOPLE, value) == f"uid={escaped},ou=people,dc=example,dc=com"

    @given(st.text())
    def test_whatever_it_is(self, value: str) -> None:
        from cryptography import x509
        from cryptography.x509.oid import NameOID

        escaped = escape(value)
        assert not set(escaped) & set('"+,;<>=#\0 ')
        if 0 < len(value.encode()) <= 64:
            # Another reader of RFC 4514 finds one attribute, with that very value.
            [[attribute]] = x509.Name.from_rfc4514_string(f"CN={escaped}").rdns
            assert (attribute.oid, attribute.value) == (NameOID.COMMON_NAME, value)

    @pytest.mark.parametrize(
        ("template", "user", "name", "bound"),
        [
            (UPN, "ann", "ann", "ann@corp.example"),
            (UPN, "ann@CORP.example", "ann", "ann@corp.example"),
            (UPN, "ann.lee-2", "ann.lee-2", "ann.lee-2@corp.example"),
            ("CORP\\{user}", "ann", "ann", "CORP\\ann"),
            ("{user}", "ann@corp.example", "ann@corp.example", "ann@corp.example"),
            (PEOPLE, "ann@corp.example", "ann@corp.example", "uid=ann@corp.example,ou=people,dc=example,dc=com"),
            (PEOPLE, "\uff41nn", "ann", DN),  # NFKC, as the directory would (RFC 4518)
            (PEOPLE, "é", "é", "uid=é,ou=people,dc=example,dc=com"),
        ],
    )
    def test_whom_to_bind_as(self, template: str, user: str, name: str, bound: str) -> None:
        assert account_name(template, user) == name
        assert bind_name(template, name) == bound

    @pytest.mark.parametrize(
        "user",
        [
            "",
            " ",
            " ann",
            "ann ",
            "an  n",
            "ann\0",
            "ann\n",
            "an\u00adn",
            "an\u200bn",
            "\u2028ann",
            "\ufeffann",
            "a" * 257,
        ],
    )
    @pytest.mark.parametrize("template", [PEOPLE, UPN, "{user}"])
    def test_what_would_be_another_name_for_somebody(self, template: str, user: str) -> None:
        assert account_name(template, user) is None

    @pytest.mark.parametrize(
        "user",
        [
            "CORP\\ann",
            "ann@other.example",
            "@corp.example",
            "ann@corp.example@corp.example",
            "corp.example/users/ann",
            "cn=ann,dc=corp,dc=example",
            "a*",
            "<SID=S-1-5-21>",
            "a;b",
        ],
    )
    def test_what_active_directory_would_take_for_another_kind_of_name(self, user: str) -> None:
        assert account_name(UPN, user) is None


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "server"),
        [
            ("ldaps://dc.example.com", Server("dc.example.com", 636, True, False)),
            ("LDAPS://dc.example.com:3269/", Server("dc.example.com", 3269, True, False)),
            ("ldap://10.0.0.1", Server("10.0.0.1", 389, False, True)),
            ("ldap://[2001:db8::1]:1389", Server("2001:db8::1", 1389, False, True)),
        ],
    )
    def test_addresses(self, url: str, server: Server) -> None:
        assert read_url(LdapSettings(url, PEOPLE)) == server

    def test_without_starttls_only_where_it_is_said(self) -> None:
        assert not read_url(LdapSettings("ldap://127.0.0.1", PEOPLE, starttls=False)).starttls

    @pytest.mark.parametrize(
        "url",
        (
            *("", "dc.example.com", "https://dc.example.com", "ldaps://", "ldaps://a:x", "ldaps://a:0"),
            *("ldap://[::1", "ldaps://u:p@a", "ldaps://a/dc=example", "ldaps://a?uid", "ldapi:///"),
        ),
    )
    def test_what_is_no_address(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"ldap.url: .*ldaps://HOST\[:PORT\]"):
            Directory(LdapSettings(url, PEOPLE))

    def test_one_name_for_everybody(self) -> None:
        with pytest.raises(ValueError, match=r"ldap.bind_as: .*\{user\}"):
            Directory(LdapSettings("ldaps://a", "cn=admin,dc=example"))

    def test_a_group_that_is_no_dn(self) -> None:
        with pytest.raises(ValueError, match=r"ldap.group: 'smtp'"):
            Directory(LdapSettings("ldaps://a", PEOPLE, group="smtp"))

    def test_a_ca_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"ldap.ca: .*missing.pem"):
            Directory(LdapSettings("ldaps://a", PEOPLE, ca=tmp_path / "missing.pem"))
        (tmp_path / "empty.pem").write_text("nothing")
        with pytest.raises(ValueError, match=r"ldap.ca: .*empty.pem"):
            Directory(LdapSettings("ldaps://a", PEOPLE, ca=tmp_path / "empty.pem"))

    def test_what_it_is_called(self) -> None:
        directory = Directory(LdapSettings("ldaps://a", PEOPLE))
        assert directory.name == "LDAP"
        assert directory.has_accounts


class TestMessages:
    def test_a_bind_as_it_is_on_the_wire(self) -> None:
        # RFC 4511 §4.2: version 3, name, [0] password
        octets = "3012 020101 600d 020103 0404636e3d61 80027077"
        assert messages.bind_request(1, "cn=a", "pw") == bytes.fromhex(octets)

    def test_no_bind_without_a_name_or_password(self) -> None:
        for name, password in (("cn=a", ""), ("", "pw"), ("", "")):
            with pytest.raises(ValueError, match="proves nothing"):
                messages.bind_request(1, name, password)

    def test_long_values_have_long_lengths(self) -> None:
        request = messages.bind_request(300, "cn=a", "p" * 70_000)
        assert request[:2] == b"\x30\x83"
        assert request.count(b"p" * 70_000) == 1

    def test_lengths_as_active_directory_writes_them(self) -> None:
        octets = bytes.fromhex("3084 00000010 020101 6184 00000007 0a0100 0400 0400")
        assert messages.read_message(octets) == (messages.Message(1, messages.BIND_RESPONSE), len(octets))

    def test_a_message_in_pieces(self) -> None:
        whole = result(7, messages.BIND_RESPONSE, 49, "80090308: LdapErr: DSID-0C090439, data 52e, v4563")
        for length in range(len(whole)):
            assert messages.read_message(whole[:length]) is None
        assert messages.read_message(whole + b"more") == (
            messages.Message(7, messages.BIND_RESPONSE, 49, "80090308: LdapErr: DSID-0C090439, data 52e, v4563"),
            len(whole),
        )

    def test_an_entry(self) -> None:
        octets = entry(2, "cn=g", {"objectSid": [b"\x01\x02"], "member": [b"a", b"b"]})
        message, _ = messages.read_message(octets) or (None, 0)
        assert message is not None
        assert message.name == "cn=g"
        assert message.attributes == {"objectsid": (b"\x01\x02",), "member": (b"a", b"b")}

    @pytest.mark.parametrize(
        "octets",
        [
            b"220 mail.example ESMTP\r\n",
            b"\x30\x80\x02\x01\x01\x00\x00",
            b"\x30\x89" + b"\0" * 9,
            b"\x30\x84\x7f\xff\xff\xff",
            b"\x30\x03\x02\x01\x01",
            b"\x30\x06\x02\x01\x01\x61\x05\x00",
            b"\x30\x05\x02\x01\x01\x61\x00",
            b"\x30\x05\x04\x01\x01\x61\x00",
            b"\x30\x0e\x02\x05\x01\x00\x00\x00\x00\x61\x05\x0a\x01\x00\x04\x00",
            b"\x30\x07\x02\x01\x01\x64\x02\x04\x00",
        ],
    )
    def test_what_is_not_ldap(self, octets: bytes) -> None:
        with pytest.raises(messages.LdapFormatError):
            messages.read_message(octets)

    @given(st.binary(max_size=80), st.binary(max_size=80))
    def test_any_octets_are_read_or_refused(self, start: bytes, rest: bytes) -> None:
        for octets in (start + rest, b"\x30" + bytes([len(rest)]) + rest, result(1, 0x61, 0)[:5] + rest):
            try:
                read = messages.read_message(octets)
            except messages.LdapFormatError:
                continue
            assert read is None or 2 <= read[1] <= len(octets)


# A directory that says what a test wants


def tlv(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return bytes((tag, 0x84)) + len(content).to_bytes(4, "big") + content


def result(id: int, operation: int, code: int, diagnostic: str = "", *more: bytes) -> bytes:
    body = tlv(0x0A, bytes([code])) + tlv(4) + tlv(4, diagnostic.encode()) + b"".join(more)
    return tlv(0x30, tlv(2, bytes([id])), tlv(operation, body))


def entry(id: int, name: str, attributes: dict[str, list[bytes]]) -> bytes:
    listed = [
        tlv(0x30, tlv(4, name.encode()), tlv(0x31, *(tlv(4, value) for value in values)))
        for name, values in attributes.items()
    ]
    return tlv(0x30, tlv(2, bytes([id])), tlv(0x64, tlv(4, name.encode()), tlv(0x30, *listed)))


Answer = Callable[[int, bytes], bytes | None]
"""To request number N, these octets, b"" for silence, None to hang up."""


@asynccontextmanager
async def directory(answer: Answer, **settings: Any) -> AsyncIterator[tuple[Directory, list[bytes]]]:
    """A Directory that asks on the loopback, and the requests that came in."""
    requests: list[bytes] = []
    served: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        try:
            number = 0
            while octets := await reader.read(65536):
                number += 1
                requests.append(octets)
                said = answer(number, octets)
                if said is None:
                    break
                writer.write(said)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made = Directory(LdapSettings(f"ldap://127.0.0.1:{port}", PEOPLE, **({"starttls": False} | settings)))
    try:
        yield made, requests
    finally:
        await made.close()
        server.close()
        # Who asked has hung up by now.
        await asyncio.gather(*filter(None, served))


def bind_answer(code: int, diagnostic: str = "") -> Answer:
    return lambda number, _: result(number, messages.BIND_RESPONSE, code, diagnostic)


class TestDirectory:
    async def test_a_right_password(self) -> None:
        async with directory(bind_answer(0)) as (ldap, requests):
            assert await ldap.check("ann", "pw") == Granted("ann")
            assert requests[0] == messages.bind_request(1, DN, "pw")

    @pytest.mark.parametrize("code", [32, 34, 48, 49])
    async def test_a_wrong_one(self, code: int) -> None:
        async with directory(bind_answer(code, "no\r\nno")) as (ldap, _):
            verdict = await ldap.check("ann", "pw")
            assert isinstance(verdict, Denied)
            assert verdict.user == "ann"
            assert "\n" not in verdict.reason

    async def test_what_active_directory_says_of_a_refusal(self) -> None:
        said = "80090308: LdapErr: DSID-0C09056D, comment: AcceptSecurityContext error, data 775, v4563"
        async with directory(bind_answer(49, said)) as (ldap, _):
            assert await ldap.check("ann", "pw") == Denied("invalidCredentials: the account is locked", "ann")

    @pytest.mark.parametrize("code", [1, 2, 3, 7, 8, 10, 13, 50, 51, 52, 53, 80, 99])
    async def test_what_says_nothing_about_the_password(self, code: int) -> None:
        async with directory(bind_answer(code)) as (ldap, _):
            assert isinstance(await ldap.check("ann", "pw"), Unavailable)

    async def test_an_empty_password_is_refused_before_anybody_is_asked(self) -> None:
        # RFC 4513 §5.1.2: the directory would say yes.
        async with directory(bind_answer(0)) as (ldap, requests):
            assert await ldap.check("ann", "") == Denied("an empty password", "ann")
            assert isinstance(await ldap.check("", "pw"), Denied)
            assert isinstance(await ldap.check(" ann", "pw"), Denied)
            assert requests == []

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            (None, "the connection was lost"),
            (b"220 mail.example ESMTP\r\n", "not an LDAP message"),
            (result(9, messages.BIND_RESPONSE, 0), "an answer to something else"),
            (result(1, messages.EXTENDED_RESPONSE, 0), "an answer to something else"),
            (result(0, messages.EXTENDED_RESPONSE, 52), "hangs up: unavailable"),
            (b"\x30\x84\x00\x10\x00\x00", "longer than 64 KiB"),
            (b"", "no answer within"),
        ],
    )
    async def test_a_directory_that_does_not_speak_properly(self, said: bytes | None, reason: str) -> None:
        async with directory(lambda *_: said, timeout=0.5 if said == b"" else 10.0) as (ldap, _):
            verdict = await ldap.check("ann", "secret-password")
            assert isinstance(verdict, Unavailable)
            assert reason in verdict.reason
            assert "secret" not in verdict.reason

    async def test_nobody_there(self) -> None:
        async with directory(bind_answer(0)) as (_, _):
            pass
        verdict = await Directory(LdapSettings("ldap://127.0.0.1:1", PEOPLE, starttls=False)).check("ann", "pw")
        assert isinstance(verdict, Unavailable)
        assert verdict.reason.startswith("directory 127.0.0.1:1: ")

    @pytest.mark.parametrize(
        "said",
        [
            result(1, messages.EXTENDED_RESPONSE, 2),
            result(1, messages.EXTENDED_RESPONSE, 52),
            result(1, messages.EXTENDED_RESPONSE, 0) + result(2, messages.BIND_RESPONSE, 0),
            result(1, messages.BIND_RESPONSE, 0),
        ],
    )
    async def test_no_password_without_tls(self, said: bytes) -> None:
        async with directory(lambda *_: said, starttls=True) as (ldap, requests):
            assert isinstance(await ldap.check("ann", "secret-password"), Unavailable)
            assert b"".join(requests) == messages.extended_request(1, messages.STARTTLS)

    async def test_who_waits_while_it_is_closed_hears_that_it_cannot_be_known(self) -> None:
        asked = asyncio.Event()

        def silent(*_: object) -> bytes:
            asked.set()
            return b""

        async with directory(silent) as (ldap, _):
            waiting = asyncio.create_task(ldap.check("ann", "pw"))
            await asked.wait()
            await ldap.close()
            assert isinstance(await waiting, Unavailable)

    async def test_not_more_than_so_many_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mailroot.policy.auth.ldap._MOST_AT_ONCE", 2)
        asked = asyncio.Event()
        count = 0

        def silent(*_: object) -> bytes:
            nonlocal count
            count += 1
            asked.set()
            return b""

        async with directory(silent, timeout=0.5) as (ldap, requests):
            verdicts = await asyncio.gather(*(ldap.check("ann", "pw") for _ in range(5)))
            assert all(isinstance(verdict, Unavailable) for verdict in verdicts)
            assert len(requests) == 2


class TestGroups:
    GROUP = "cn=smtp,ou=groups,dc=corp,dc=example"
    SIDS = (b"\x01\x05smtp", b"\x01\x05staff")

    def active_directory(self, *, sids: tuple[bytes, ...], group: bytes | None) -> Answer:
        def answer(number: int, octets: bytes) -> bytes | None:
            if number == 1:
                return result(1, messages.BIND_RESPONSE, 0)
            if number == 4:
                return None  # the good-bye
            done = result(number, messages.SEARCH_DONE, 0 if number == 2 or group else 32)
            if b"tokenGroups" in octets:
                told = {"supportedCapabilities": [b"1.2.840.113556.1.4.800"], "tokenGroups": list(sids)}
                return entry(number, "", told) + done
            assert self.GROUP.encode() in octets
            return (entry(number, self.GROUP, {"objectSid": [group]}) if group else b"") + done

        return answer

    async def ask(self, answer: Answer) -> Verdict:
        async with directory(answer, group=self.GROUP) as (ldap, _):
            return await ldap.check("ann", "pw")

    async def test_active_directory_tells_the_groups_of_who_is_bound(self) -> None:
        assert await self.ask(self.active_directory(sids=self.SIDS, group=self.SIDS[0])) == Granted("ann")
        not_in = Denied(f"not a member of {self.GROUP}", "ann")
        assert await self.ask(self.active_directory(sids=self.SIDS[1:], group=self.SIDS[0])) == not_in
        assert await self.ask(self.active_directory(sids=(), group=self.SIDS[0])) == not_in
        assert await self.ask(self.active_directory(sids=self.SIDS, group=None)) == not_in

    async def test_an_answer_without_end_is_broken_off(self) -> None:
        def endless(number: int, _: bytes) -> bytes:
            if number == 1:
                return result(1, messages.BIND_RESPONSE, 0)
            return entry(number, "", {}) * 100

        verdict = await self.ask(endless)
        assert isinstance(verdict, Unavailable)
        assert "more answers than were asked for" in verdict.reason

    async def test_a_directory_that_cannot_tell(self) -> None:
        def busy(number: int, _: bytes) -> bytes:
            return result(
                number, messages.BIND_RESPONSE if number == 1 else messages.SEARCH_DONE, 0 if number == 1 else 51
            )

        verdict = await self.ask(busy)
        assert isinstance(verdict, Unavailable)
        assert "search: busy" in verdict.reason
