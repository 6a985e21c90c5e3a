"""The guard: sessions per address, guesses and bans, quotas; and that no flood makes it forget, grow or tell."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from mailroot.clock import ManualClock
from mailroot.events import BanLifted, Banned, Bus, Event, LimitReached, LoginFailed, LoginSucceeded
from mailroot.mail.reply import Reply
from mailroot.policy.domains import LocalDomains
from mailroot.policy.guard import Ban, BanKind, Guard, address_key, network_key, shown_address, shown_network
from mailroot.policy.limits import LimitSettings, LoginLimits, Quota
from mailroot.policy.permissions import Grant, Permission, Permissions
from mailroot.policy.visit import Refuse, Visit
from mailroot.queue.base import Arrivals
from mailroot.units import DAY, MINUTE

pytestmark = pytest.mark.quick

CLIENT = ip_address("192.0.2.1")
OTHER = ip_address("198.51.100.9")
LOOPBACK = ip_address("127.0.0.1")
FREE = Grant("there are none")


class House:
    """A guard, its clock and what it published."""

    def __init__(self, settings: LimitSettings | None = None) -> None:
        self.clock = ManualClock()
        self.events: list[Event] = []
        bus = Bus(self.clock)
        bus.subscribe(lambda at, event: self.events.append(event))
        self.settings = settings or LimitSettings()
        self.guard = Guard(self.settings, bus, self.clock, server="relay")

    def fail(self, client: str = "192.0.2.1", user: str = "crm", times: int = 1) -> list[float]:
        return [self.guard.login_failed("s", ip_address(client), user, "PLAIN", "wrong") for _ in range(times)]

    def succeed(self, client: str, user: str = "crm") -> None:
        self.guard.login_succeeded("s", ip_address(client), user, "PLAIN")

    def may_login(self, client: str = "192.0.2.1", user: str = "crm") -> bool:
        match self.guard.may_login("s", ip_address(client), user):
            case None:
                return True
            case Refuse(_, reply):
                assert reply == Reply(454, "4.7.0", "Too many failed logins, try again later")
                return False

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if type(event) is kind]


def taken(house: House, visit: Visit, grant: Grant = FREE, times: int = 100) -> int:
    """How many messages until one is refused."""
    return next(n for n in range(times + 1) if house.guard.take_message("s", visit, grant) is not None)


# Sessions


def test_so_many_sessions_from_one_address() -> None:
    house = House(LimitSettings(sessions_per_address=2))
    guard = house.guard
    assert guard.arrive(CLIENT, may_relay=True) is None
    assert guard.arrive(CLIENT, may_relay=False) is None
    for _ in range(3):
        refusal = guard.arrive(CLIENT, may_relay=True)
        assert refusal is not None
        assert str(refusal.reply) == "421 4.7.0 Too many connections from 192.0.2.1, try again later"
    assert guard.arrive(OTHER, may_relay=True) is None
    guard.depart(CLIENT)
    assert guard.arrive(CLIENT, may_relay=True) is None
    assert house.events == [LimitReached("relay", "", "192.0.2.1", "", "limits.sessions_per_address", "2")]
    house.clock.turn(60)
    assert guard.arrive(CLIENT, may_relay=True) is not None
    assert len(house.events) == 2


def test_ipv6_clients_are_one_by_their_network() -> None:
    guard = House(LimitSettings(sessions_per_address=1)).guard
    assert guard.arrive(ip_address("2001:db8::1"), may_relay=True) is None
    refusal = guard.arrive(ip_address("2001:db8::2:3:4:5"), may_relay=True)
    assert refusal is not None
    assert "2001:db8::/64" in refusal.reply.text
    assert guard.arrive(ip_address("2001:db8:0:1::1"), may_relay=True) is None


def test_exempt_clients_may_have_any_number() -> None:
    guard = House().guard
    assert all(guard.arrive(LOOPBACK, may_relay=True) is None for _ in range(2000))
    assert all(guard.arrive(ip_address("::1"), may_relay=True) is None for _ in range(2000))


def test_no_limit_is_no_limit() -> None:
    guard = House(LimitSettings(sessions_per_address=0)).guard
    assert all(guard.arrive(CLIENT, may_relay=True) is None for _ in range(2000))


def test_sessions_that_are_over_leave_nothing_behind() -> None:
    guard = House().guard
    for number in range(1000):
        guard.arrive(ip_address(number), may_relay=True)
        guard.depart(ip_address(number))
    guard.depart(CLIENT)  # one that was never counted
    assert guard._sessions == {}


def test_an_entry_that_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="no names"):
        House(LimitSettings(exempt=("example.com",)))
    with pytest.raises(ValueError, match=r"192\.0\.2"):
        House(LimitSettings(exempt=("192.0.2.300",)))


# Guesses


def test_each_failure_is_answered_later_and_told_of() -> None:
    house = House()
    assert house.fail(times=6) == [0, 1, 2, 4, 8, 8]
    assert house.fail("198.51.100.9", user="other") == [0]
    assert house.fail("198.51.100.9", user="crm") == [8]  # the account has failed seven times
    failed = house.of(LoginFailed)
    assert len(failed) == 8
    assert failed[5] == LoginFailed("relay", "s", "192.0.2.1", "crm", "PLAIN", "wrong", 6)


def test_an_address_is_banned_for_a_while() -> None:
    house = House()
    for number in range(9):
        house.fail(user=f"user{number}")
    assert house.may_login()
    house.fail(user="user9")
    assert not house.may_login()
    assert not house.may_login(user="")
    assert house.may_login(client="198.51.100.9")
    until = house.clock.now() + 300
    assert house.of(Banned) == [Banned("relay", "192.0.2.1", 10, until)]
    assert house.guard.bans() == [Ban("192.0.2.1", BanKind.ADDRESS, 10, until)]
    house.fail(user="begun before")
    assert len(house.of(Banned)) == 1
    house.clock.turn(300)
    assert house.may_login()
    assert house.guard.bans() == []


def test_a_banned_address_is_turned_away_unless_it_may_relay() -> None:
    house = House()
    house.fail(times=10, user="")
    refusal = house.guard.arrive(CLIENT, may_relay=False)
    assert refusal is not None
    assert str(refusal.reply) == "421 4.7.0 Too many failed logins from 192.0.2.1, try again later"
    assert house.guard.arrive(CLIENT, may_relay=True) is None
    assert house.guard.arrive(OTHER, may_relay=False) is None


def test_an_account_is_banned_wherever_it_is_tried() -> None:
    house = House()
    for number in range(10):
        house.fail(f"198.51.100.{number}", "CRM")
    assert not house.may_login("203.0.113.1", "crm")
    assert not house.may_login("203.0.113.1", "CrM")
    assert house.may_login("203.0.113.1", "other")
    assert [(ban.who, ban.kind) for ban in house.guard.bans()] == [("crm", BanKind.ACCOUNT)]
    assert house.guard.arrive(ip_address("203.0.113.1"), may_relay=False) is None


def test_nobody_can_lock_out_a_running_program() -> None:
    house = House()
    house.succeed("10.0.0.5")
    for number in range(200):
        house.fail(f"198.51.100.{number}")
    assert not house.may_login("203.0.113.1")
    assert house.may_login("10.0.0.5")
    # The attack goes on for a month in which the program logs in once a week.
    for _ in range(5):
        house.clock.turn(7 * DAY)
        house.fail("198.51.100.7", times=10)
        assert house.may_login("10.0.0.5")
        house.succeed("10.0.0.5")
    # Its address is banned for what it does itself, all the same.
    house.fail("10.0.0.5", times=10)
    assert not house.may_login("10.0.0.5")


def test_an_old_login_is_no_pass_for_ever() -> None:
    house = House(LimitSettings(logins=LoginLimits(ban=100 * DAY, longest_ban=100 * DAY)))
    house.succeed("10.0.0.5")
    house.fail(times=10)
    house.clock.turn(30 * DAY)
    assert house.may_login("10.0.0.5")
    house.clock.turn(2 * DAY)
    assert not house.may_login("10.0.0.5")


def test_a_login_that_succeeds_wipes_nothing_out() -> None:
    house = House()
    for _ in range(9):
        house.fail(user="victim")
        house.succeed("192.0.2.1", "own")
    house.fail(user="victim")
    assert not house.may_login()
    assert len(house.of(LoginSucceeded)) == 9


def test_no_ban_is_for_exempt_addresses_but_the_accounts_they_try_are_banned_elsewhere() -> None:
    house = House()
    delays = house.fail("127.0.0.1", times=30)
    assert [(ban.who, ban.kind) for ban in house.guard.bans()] == [("crm", BanKind.ACCOUNT)]
    assert delays[:5] == [0, 1, 2, 4, 8]
    assert house.fail("127.0.0.1", user="", times=30) == [0] * 30
    assert house.guard.arrive(LOOPBACK, may_relay=False) is None
    assert house.may_login("127.0.0.1", "other")
    assert house.may_login("127.0.0.1", "crm")
    assert not house.may_login("203.0.113.1", "crm")


def test_a_ban_says_nothing_about_which_accounts_there_are() -> None:
    house = House()
    for number in range(10):
        house.fail(f"198.51.100.{number}", "nobody-of-that-name")
    assert not house.may_login("203.0.113.1", "nobody-of-that-name")


def test_writings_of_one_name_are_one_whether_there_is_such_an_account_or_not() -> None:
    house = House()
    writings = ("nobody", "NOBODY", "no\u00adbody", "\uff4eobody", "Nobod\u200by")
    for number in range(10):
        house.fail(f"198.51.100.{number}", writings[number % 5])
    assert not any(house.may_login("203.0.113.1", user) for user in writings)
    assert len(house.guard.bans()) == 1


def test_setting_the_clock_frees_and_blocks_nobody() -> None:
    house = House(LimitSettings(address=Quota(messages_per_minute=1)))
    visit = Visit(CLIENT, "")
    house.fail(times=10)
    assert house.guard.take_message("s", visit, FREE) is None
    house.clock.set(house.clock.now() + 40 * DAY)
    assert not house.may_login()
    assert house.guard.take_message("s", visit, FREE) is not None
    assert house.guard.bans()[0].until == house.clock.now() + 300
    house.clock.set(0.0)
    house.clock.turn(300)
    assert house.may_login()
    assert house.guard.take_message("s", visit, FREE) is None


@pytest.mark.parametrize("who", ["192.0.2.1", " 192.0.2.1 ", "::ffff:192.0.2.1"])
def test_lifting_the_ban_of_an_address(who: str) -> None:
    house = House()
    for number in range(10):
        house.fail(user=f"user{number}")
    assert house.guard.lift(who)
    assert house.may_login()
    assert not house.guard.lift(who)
    assert house.of(BanLifted) == [BanLifted("relay", "192.0.2.1")]
    assert house.fail(user="fresh") == [0]


def test_lifting_the_ban_of_a_network_and_of_an_account() -> None:
    house = House()
    for number in range(10):
        house.fail("2001:db8::1", user=f"user{number}")
        house.fail(f"198.51.100.{number}", "crm")
    assert {ban.who for ban in house.guard.bans()} == {"2001:db8::/64", "crm"}
    assert house.guard.lift("2001:db8::/64")
    assert house.guard.lift("CRM")
    assert house.guard.bans() == []
    assert not house.guard.lift("nobody")
    house.fail(times=10)
    assert not house.guard.lift("192.0.2.1/24")
    assert house.guard.lift("192.0.2.1")
    assert not house.guard.lift("")


def test_changed_settings_hold_and_forget_nothing() -> None:
    house = House()
    house.fail(times=10)
    house.guard.change(replace(house.settings, logins=LoginLimits(failures=100)))
    assert not house.may_login()
    house.guard.change(replace(house.settings, exempt=("192.0.2.0/24",)))
    assert house.may_login(user="other")
    assert house.guard.arrive(CLIENT, may_relay=False) is None
    with pytest.raises(ValueError, match="no names"):
        house.guard.change(replace(house.settings, exempt=("example.com",)))
    assert house.may_login(user="other")


# Quotas


@pytest.mark.parametrize(
    ("quota", "near", "far", "reply"),
    [
        ("address", "192.0.2.1", "192.0.2.2", "Too many messages from 192.0.2.1 in a minute, try again later"),
        (
            "network",
            "192.0.2.9",
            "192.0.3.1",
            "Too many messages from network 192.0.2.0/24 in a minute, try again later",
        ),
    ],
)
def test_so_many_messages_from_one_place(quota: str, near: str, far: str, reply: str) -> None:
    house = House(LimitSettings(**{quota: Quota(messages_per_minute=3)}))  # type: ignore[arg-type]
    visit = Visit(CLIENT, "")
    assert taken(house, visit) == 3
    refusal = house.guard.take_message("s", Visit(ip_address(near), ""), FREE)
    assert refusal is not None
    assert refusal.reply == Reply(450, "4.7.1", reply)
    assert refusal.rule == f"limits.{quota}.messages_per_minute: 3"
    assert taken(house, Visit(ip_address(far), "")) == 3
    assert house.guard.take_recipient("s", visit, FREE) is None
    house.clock.turn(65)
    assert taken(house, visit) == 3


def test_exempt_clients_hand_in_what_they_like() -> None:
    house = House(
        LimitSettings(
            address=Quota(messages_per_minute=1), network=Quota(1, 1, 1, 1), account=Quota(messages_per_minute=2)
        )
    )
    assert all(house.guard.take_message("s", Visit(LOOPBACK, ""), FREE) is None for _ in range(50))
    assert taken(house, Visit(LOOPBACK, "", user="crm")) == 2


def test_so_many_messages_and_recipients_of_one_account() -> None:
    house = House(LimitSettings(account=Quota(messages_per_day=2, recipients_per_minute=3)))
    guard = house.guard
    assert guard.take_message("s", Visit(CLIENT, "", user="crm"), FREE) is None
    assert guard.take_message("s", Visit(OTHER, "", user="CRM"), FREE) is None
    refusal = guard.take_message("s", Visit(CLIENT, "", user="crm"), FREE)
    assert refusal is not None
    assert refusal.reply.text == "Too many messages from account crm in 24 hours, try again later"
    assert taken(house, Visit(CLIENT, "", user="Jürgen\r\n" + "x" * 500)) == 2
    refusal = guard.take_message("s", Visit(CLIENT, "", user="Jürgen\r\n" + "x" * 500), FREE)
    assert refusal is not None
    assert refusal.reply.text.startswith("Too many messages from account J?rgen??xxx")
    assert len(refusal.reply.text) < 150
    assert guard.take_message("s", Visit(CLIENT, ""), FREE) is None  # nobody's account
    recipients = [guard.take_recipient("s", Visit(CLIENT, "", user="crm"), FREE) for _ in range(4)]
    assert [one is None for one in recipients] == [True, True, True, False]


def test_a_permissions_own_quota() -> None:
    quota = Quota(messages_per_minute=2)
    permissions = Permissions(
        (Permission(accounts=("*",), quota=quota), Permission(networks=("192.0.2.0/24",), quota=quota)),
        LocalDomains("example.com", ()),
    )
    house = House()
    for visit, who in (
        (Visit(CLIENT, "", user="crm"), "account crm"),
        (Visit(CLIENT, "", user="shop"), "account shop"),
        (Visit(CLIENT, ""), "192.0.2.1"),
        (Visit(ip_address("192.0.2.2"), ""), "192.0.2.2"),
    ):
        grant = permissions.of(visit)
        assert taken(house, visit, grant) == 2
        refusal = house.guard.take_message("s", visit, grant)
        assert refusal is not None
        assert refusal.reply.text == f"Too many messages from {who} in a minute, try again later"
    assert refusal.rule == "access.permissions, entry 2, quota.messages_per_minute: 2"


def test_what_one_limit_refuses_costs_the_others_nothing() -> None:
    house = House(
        LimitSettings(
            address=Quota(messages_per_minute=5), network=Quota(messages_per_minute=1, messages_per_day=3)
        )
    )
    visit = Visit(CLIENT, "")
    assert taken(house, visit) == 1
    for _ in range(10):
        assert house.guard.take_message("s", visit, FREE) is not None
    house.clock.turn(65)
    assert taken(house, visit) == 1
    house.clock.turn(65)
    assert taken(house, visit) == 1
    house.clock.turn(65)
    refusal = house.guard.take_message("s", visit, FREE)
    assert refusal is not None
    assert refusal.rule == "limits.network.messages_per_day: 3"


def test_a_limit_is_told_of_once_a_minute() -> None:
    house = House(LimitSettings(address=Quota(messages_per_day=1)))
    assert taken(house, Visit(CLIENT, "", user="crm")) == 1
    for _ in range(100):
        house.guard.take_message("s", Visit(CLIENT, "", user="crm"), FREE)
    house.guard.take_message("t", Visit(OTHER, ""), FREE)
    house.guard.take_message("t", Visit(OTHER, ""), FREE)
    name = "limits.address.messages_per_day"
    assert house.events == [
        LimitReached("relay", "s", "192.0.2.1", "crm", name, "1"),
        LimitReached("relay", "t", "198.51.100.9", "", name, "1"),
    ]
    house.clock.turn(60)
    house.guard.take_message("s", Visit(CLIENT, ""), FREE)
    assert len(house.events) == 3


def test_a_day_survives_a_restart() -> None:
    permissions = Permissions(
        (Permission(accounts=("shop",), quota=Quota(messages_per_day=10)),), LocalDomains("example.com", ())
    )
    house = House(LimitSettings(address=Quota(messages_per_day=10, messages_per_minute=8)))
    now = house.clock.now()
    house.guard.remember(
        [
            Arrivals("192.0.2.1", "", now - 3600, 4, 9),
            Arrivals("192.0.2.1", "crm", now - 23 * 3600, 3, 3),
            Arrivals("192.0.2.1", "", now - 2 * DAY, 50, 50),
            Arrivals("198.51.100.9", "shop", now + 900, 6, 6),
            Arrivals("", "", now, 1, 1),
        ],
        permissions.of,
    )
    assert taken(house, Visit(CLIENT, "")) == 3
    house.clock.turn(2 * 3600)
    assert taken(house, Visit(CLIENT, "")) == 3
    shop = Visit(ip_address("203.0.113.5"), "", user="shop")
    assert taken(house, shop, permissions.of(shop)) == 4


# Floods


def test_memory_stays_bounded_whatever_strangers_say() -> None:
    house = House(LimitSettings(address=Quota(9, 9, 9, 9), network=Quota(9, 9, 9, 9), account=Quota(9, 9, 9, 9)))
    house.guard.login_failed("s", ip_address("203.0.113.1"), "first", "PLAIN", "wrong")
    for _ in range(9):
        house.guard.login_failed("s", ip_address("203.0.113.1"), "first", "PLAIN", "wrong")

    for number in range(50_000):
        client = ip_address((0x2001_0DB8 << 96) + (number << 64) + number)
        house.guard.login_failed("s", client, str(number) + "x" * 5000, "PLAIN", "wrong")
        house.guard.login_failed("s", client, str(number) + "x" * 5000, "PLAIN", "wrong")
        house.guard.login_succeeded("s", client, f"user{number}", "PLAIN")
        house.guard.take_message("s", Visit(client, "", user=f"user{number}"), FREE)
        house.guard.arrive(client, may_relay=False)
        house.guard.depart(client)
        house.events.clear()

    guard = house.guard
    assert len(guard._addresses) <= 3 * 4096
    assert len(guard._accounts) <= 3 * 4096
    assert all(len(one) <= 8192 for one in (guard._by_address, guard._by_network, guard._by_account))
    assert len(guard._trusted) <= 2048
    assert guard._pairs == sum(map(len, guard._trusted.values()))
    assert guard._sessions == {}
    # The bans of before are in force.
    assert {ban.who for ban in guard.bans()} == {"203.0.113.1", "first"}
    assert not house.may_login("203.0.113.1", "anybody")
    assert not house.may_login("203.0.113.77", "first")


def test_one_account_used_from_everywhere_pushes_out_no_other() -> None:
    house = House()
    house.succeed("10.0.0.5", "crm")
    for number in range(50_000):
        house.succeed(str(ip_address(number)), "roaming")
    house.fail(times=10)
    assert house.may_login("10.0.0.5", "crm")
    assert house.guard._pairs == 257


def test_long_names_are_told_apart() -> None:
    house = House()
    long = "x" * 400
    for number in range(10):
        house.fail(f"198.51.100.{number}", long + "a")
    assert not house.may_login(user=(long + "A"))
    assert house.may_login(user=long + "b")
    [ban] = house.guard.bans()
    assert len(ban.who) == 128
    assert house.guard.lift(ban.who)
    assert house.may_login(user=long + "a")
    assert all(len(event.user) <= 128 for event in house.of(LoginFailed) if isinstance(event, LoginFailed))


@pytest.mark.parametrize(
    ("client", "address", "network"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.0/24"),
        ("0.0.0.0", "0.0.0.0", "0.0.0.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("::1", "::/64", "::/48"),
        ("ffff::", "ffff::/64", "ffff::/48"),
    ],
)
def test_keys_and_what_is_shown(client: str, address: str, network: str) -> None:
    assert shown_address(address_key(ip_address(client))) == address
    assert shown_network(network_key(ip_address(client))) == network


def test_the_defaults_leave_ordinary_clients_alone() -> None:
    house = House()
    visit = Visit(OTHER, "", user="dbmail")
    for _minute in range(60):
        for _ in range(20):
            assert house.guard.arrive(OTHER, may_relay=False) is None
        for _ in range(1000):
            assert house.guard.take_message("s", visit, FREE) is None
            assert house.guard.take_recipient("s", visit, FREE) is None
        for _ in range(20):
            house.guard.depart(OTHER)
        house.clock.turn(MINUTE)
    assert house.events == []
