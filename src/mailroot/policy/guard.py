"""What keeps one client from taking the service from the others: so many sessions, guesses, messages and no more.

A failed login is answered the later the more there were of late, and after some comes a ban: of the address, and of
the account that was claimed, whether there is one of that name or not. It decides and counts; it never waits and
never looks at a password. Every answer costs the same small work, and every table has a bound: what is said by
strangers (addresses, names) cannot fill the memory.

IPv6 clients are counted by their /64, the smallest network that one of them is given (RFC 6177 §2).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address

from mailroot.clock import Clock
from mailroot.events import BanLifted, Banned, Bus, LimitReached, LoginFailed, LoginSucceeded
from mailroot.mail.reply import Reply
from mailroot.policy.auth.account_file import account_key
from mailroot.policy.limits import LimitSettings
from mailroot.policy.networks import ClientList, unmapped
from mailroot.policy.offenders import Offender, Offenders
from mailroot.policy.permissions import Grant
from mailroot.policy.rates import Limit, Rates, Window, limits_of
from mailroot.policy.visit import IPAddress, Refuse, Visit
from mailroot.queue.base import Arrivals
from mailroot.units import DAY, MINUTE

_LONGEST_NAME = 128
"""Characters of an account's name that are kept; two longer ones are told apart by a digest."""

_LONGEST_COMPARED = 512
"""Characters that are looked at: no account has a longer name, and comparing has its price."""

_TRUST = 31 * DAY
"""A login that succeeded keeps an account's ban away from its address for this long: a month's end comes round."""

_TRUSTED_ACCOUNTS = 2048
_TRUSTED_ADDRESSES = 256
_TRUSTED = 16384
"""Accounts, addresses of one account, and pairs in all that are kept of logins that succeeded."""

_SAY_AGAIN = MINUTE
"""A limit that is reached is told of this seldom, for each client and limit."""

_MOST_SAID = 1024

_IPV6 = 1 << 64
"""Set in the key of an IPv6 network, which no IPv4 address has."""


class BanKind(StrEnum):
    """What is banned."""

    ADDRESS = "address"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Ban:
    """A ban in force. `who`: an IPv4 address, an IPv6 network or an account's name as it was claimed by whoever
    failed; `until` in seconds since the epoch."""

    who: str
    kind: BanKind
    failures: int
    until: float


class Guard:
    """The guard of one virtual server. Raises ValueError for an entry of `exempt` that is no address or network."""

    def __init__(self, settings: LimitSettings, bus: Bus, clock: Clock, *, server: str) -> None:
        self._bus = bus
        self._clock = clock
        self._server = server
        self._sessions: dict[int, int] = {}
        self._said: OrderedDict[int, float] = OrderedDict()
        self._addresses = Offenders(settings.logins)
        self._accounts = Offenders(settings.logins)
        # By account: the addresses it logged in from of late and when, each table with the latest last
        self._trusted: OrderedDict[str, OrderedDict[int, float]] = OrderedDict()
        self._pairs = 0
        self._by_address = Rates()
        self._by_network = Rates()
        self._by_account = Rates()
        self._by_grant = Rates()
        self.change(settings)

    def change(self, settings: LimitSettings) -> None:
        """Go by these settings from now on; what was counted stays counted. Raises ValueError."""
        self._exempt = read_exempt(settings.exempt)
        self._settings = settings
        self._addresses.change(settings.logins)
        self._accounts.change(settings.logins)
        address, network, account = map(limits_of, (settings.address, settings.network, settings.account))
        self._address_limits = (address.messages, address.recipients)
        self._network_limits = (network.messages, network.recipients)
        self._account_limits = (account.messages, account.recipients)
        self._limited = tuple(
            bool(address or network or account)
            for address, network, account in zip(
                self._address_limits, self._network_limits, self._account_limits, strict=True
            )
        )

    # Sessions

    def arrive(self, client: IPAddress, *, may_relay: bool) -> Refuse | None:
        """A session begins; it counts until `depart` when the answer is None. `may_relay`: the address may relay
        without a login, so a ban refuses its logins only."""
        key = address_key(client)
        settings = self._settings
        if not may_relay:
            ban = self._addresses.ban(key, self._clock.steady())
            if ban is not None and self._exempt.find(client) is None:
                text = f"Too many failed logins from {shown_address(key)}, try again later"
                return Refuse(f"limits.logins: {shown_address(key)} is banned", Reply(421, "4.7.0", text))
        count = self._sessions.get(key, 0)
        most = settings.sessions_per_address
        if most and count >= most and self._exempt.find(client) is None:
            if self._say(key):
                self._reached("", client, "", "limits.sessions_per_address", most)
            text = f"Too many connections from {shown_address(key)}, try again later"
            return Refuse(f"limits.sessions_per_address: {most}", Reply(421, "4.7.0", text))
        self._sessions[key] = count + 1
        return None

    def depart(self, client: IPAddress) -> None:
        """A session that was counted is over."""
        key = address_key(client)
        count = self._sessions.get(key, 0) - 1
        if count > 0:
            self._sessions[key] = count
        else:
            self._sessions.pop(key, None)

    # Logins

    def may_login(self, session: str, client: IPAddress, user: str) -> Refuse | None:
        """Asked before a password is looked at, as soon as the name is known, and with "" before that."""
        now = self._clock.steady()
        key = address_key(client)
        if self._exempt.find(client) is not None:
            # Not by bans of accounts either, which strangers can bring about: programs here go on.
            return None
        if self._addresses.ban(key, now) is not None:
            return _banned(shown_address(key))
        if user:
            account = bounded_name(user)
            if self._accounts.ban(account, now) is not None and not self._is_trusted(account, key, now):
                return _banned(f"account {account}")
        return None

    def login_failed(self, session: str, client: IPAddress, user: str, mechanism: str, reason: str) -> float:
        """Count it. The answer: seconds to wait before the refusal is sent. A name that no account has counts like
        any other, or bans would tell which ones there are."""
        now = self._clock.steady()
        failures, delay = 0, 0.0
        news: list[tuple[str, Offender]] = []
        if self._exempt.find(client) is None:
            key = address_key(client)
            offender, banned = self._addresses.fail(key, now)
            failures, delay = offender.failures, self._addresses.delay(offender)
            if banned:
                news.append((shown_address(key), offender))
        if user:
            account = bounded_name(user)
            offender, banned = self._accounts.fail(account, now)
            failures, delay = max(failures, offender.failures), max(delay, self._accounts.delay(offender))
            if banned:
                news.append((account, offender))
        self._bus.publish(
            LoginFailed(
                self._server, session, str(client), user[:_LONGEST_NAME], mechanism, reason, max(failures, 1)
            )
        )
        for who, offender in news:
            until = self._clock.now() + offender.until - now
            self._bus.publish(Banned(self._server, who, offender.failures, until))
        return delay

    def login_succeeded(self, session: str, client: IPAddress, user: str, mechanism: str) -> None:
        """Failures stay counted: whoever guesses at one account may well have another."""
        now = self._clock.steady()
        account, key = bounded_name(user), address_key(client)
        addresses = self._trusted.get(account)
        if addresses is None:
            addresses = self._trusted[account] = OrderedDict()
        else:
            self._trusted.move_to_end(account)
        if key not in addresses:
            self._pairs += 1
        addresses[key] = now
        addresses.move_to_end(key)
        if len(addresses) > _TRUSTED_ADDRESSES:
            addresses.popitem(last=False)
            self._pairs -= 1
        while len(self._trusted) > _TRUSTED_ACCOUNTS or self._pairs > _TRUSTED:
            self._pairs -= len(self._trusted.popitem(last=False)[1])
        self._bus.publish(LoginSucceeded(self._server, session, str(client), user, mechanism))

    def _is_trusted(self, account: str, key: int, now: float) -> bool:
        """Whether the account logged in from there of late: an attacker elsewhere must not lock it out."""
        addresses = self._trusted.get(account)
        since = addresses.get(key) if addresses is not None else None
        return since is not None and now - since < _TRUST

    # Mail

    def take_message(self, session: str, visit: Visit, grant: Grant) -> Refuse | None:
        """Count a message, at MAIL, unless it is over a limit. What was counted is not given back."""
        return self._take(session, visit, grant, 0)

    def take_recipient(self, session: str, visit: Visit, grant: Grant) -> Refuse | None:
        """Count a recipient, at RCPT, unless it is over a limit."""
        return self._take(session, visit, grant, 1)

    def remember(self, arrivals: Iterable[Arrivals], grant_of: Callable[[Visit], Grant]) -> None:
        """Count what the queue took in the last 24 hours, before a restart; for the limits of a day. Where a
        permission goes by clients' names, which are not known here, what they sent is not counted again."""
        steady, now = self._clock.steady(), self._clock.now()
        for arrival in arrivals:
            try:
                client = unmapped(ip_address(arrival.client))
            except ValueError:
                continue
            when = steady - max(0.0, now - arrival.arrived)
            visit = Visit(client, "", user=arrival.user)
            grant = grant_of(visit)
            for kind, number in enumerate((arrival.messages, arrival.recipients)):
                for _, limit, window in self._windows(visit, grant, kind, steady):
                    # The minute before a restart is as good as over.
                    if limit.period.steps * limit.period.step >= DAY:
                        window.add_past(when, number)

    def _take(self, session: str, visit: Visit, grant: Grant, kind: int) -> Refuse | None:
        if not self._limited[kind] and grant.quota is None:
            return None
        now = self._clock.steady()
        windows = self._windows(visit, grant, kind, now)
        for scope, limit, window in windows:
            if window.total >= limit.most:
                return self._over(session, visit, scope, limit, window, now)
        for _, _, window in windows:
            window.add()
        return None

    def _windows(self, visit: Visit, grant: Grant, kind: int, now: float) -> list[tuple[str, Limit, Window]]:
        """What this visit is counted in: whose limit it is, the limit, the count."""
        found: list[tuple[str, Limit, Window]] = []
        address, network = self._address_limits[kind], self._network_limits[kind]
        if (address or network) and self._exempt.find(visit.client) is None:
            if address:
                usage = self._by_address.usage(address_key(visit.client))
                found += [("limits.address", limit, usage.window(limit, now)) for limit in address]
            if network:
                usage = self._by_network.usage(network_key(visit.client))
                found += [("limits.network", limit, usage.window(limit, now)) for limit in network]
        account = self._account_limits[kind]
        if account and visit.user:
            usage = self._by_account.usage(bounded_name(visit.user))
            found += [("limits.account", limit, usage.window(limit, now)) for limit in account]
        if grant.quota is not None:
            limits = limits_of(grant.quota)
            own = limits.recipients if kind else limits.messages
            if own:
                usage = self._by_grant.usage(grant.quota_key)
                found += [(f"{grant.rule}, quota", limit, usage.window(limit, now)) for limit in own]
        return found

    def _over(self, session: str, visit: Visit, scope: str, limit: Limit, window: Window, now: float) -> Refuse:
        name = f"{scope}.{limit.name}"
        if now - window.said >= _SAY_AGAIN:
            window.said = now
            self._reached(session, visit.client, visit.user, name, limit.most)
        match scope:
            case "limits.address":
                who = shown_address(address_key(visit.client))
            case "limits.network":
                who = f"network {shown_network(network_key(visit.client))}"
            case "limits.account":
                who = _in_reply(visit.user)
            case _:
                who = _in_reply(visit.user) if visit.user else str(visit.client)
        text = f"Too many {limit.what} from {who} in {limit.period.words}, try again later"
        return Refuse(f"{name}: {limit.most}", Reply(450, "4.7.1", text))

    def _reached(self, session: str, client: IPAddress, user: str, limit: str, value: int) -> None:
        self._bus.publish(LimitReached(self._server, session, str(client), user, limit, str(value)))

    def _say(self, key: int) -> bool:
        """Whether it is time to tell of too many sessions from there (again)."""
        now = self._clock.steady()
        if now - self._said.get(key, float("-inf")) < _SAY_AGAIN:
            return False
        self._said[key] = now
        self._said.move_to_end(key)
        if len(self._said) > _MOST_SAID:
            self._said.popitem(last=False)
        return True

    # What an operator sees and does

    def bans(self) -> list[Ban]:
        """All bans in force, the one that ends first in front."""
        steady, now = self._clock.steady(), self._clock.now()
        found = [
            Ban(shown_address(int(one.key)), BanKind.ADDRESS, one.failures, now + one.until - steady)
            for one in self._addresses.banned(steady)
        ]
        found += [
            Ban(str(one.key), BanKind.ACCOUNT, one.failures, now + one.until - steady)
            for one in self._accounts.banned(steady)
        ]
        return sorted(found, key=lambda ban: ban.until)

    def lift(self, who: str) -> bool:
        """Lift the ban of an address (or of the /64 it is in) or account, and forget its failures; False: there was
        no ban. Where an account has an address for its name, both are meant."""
        now = self._clock.steady()
        key = _read_address(who)
        address = key is not None and self._addresses.lift(key, now)
        account = self._accounts.lift(bounded_name(who), now)
        if address or account:
            shown = shown_address(key) if address and key is not None else bounded_name(who)
            self._bus.publish(BanLifted(self._server, shown))
        return address or account


def read_exempt(entries: tuple[str, ...]) -> ClientList:
    """The list of exempt clients. Raises ValueError for a bad entry, and for a name: the guard asks no DNS server
    who somebody is that floods it."""
    clients = ClientList(entries)
    if clients.has_names:
        raise ValueError("only addresses and networks can be exempt, no names; right would be '10.0.0.5'")
    return clients


def address_key(client: IPAddress) -> int:
    """What a client's address is counted by: itself, or of IPv6 its /64."""
    number = int(client)
    return number if client.version == 4 else number >> 64 | _IPV6


def network_key(client: IPAddress) -> int:
    """What a client's network is counted by: IPv4 /24, IPv6 /48."""
    number = int(client)
    return number >> 8 if client.version == 4 else number >> 80 | _IPV6


def shown_address(key: int) -> str:
    """The inverse of `address_key`: "192.0.2.1", "2001:db8::/64"."""
    return f"{IPv6Address((key ^ _IPV6) << 64)}/64" if key & _IPV6 else str(IPv4Address(key))


def shown_network(key: int) -> str:
    """The inverse of `network_key`: "192.0.2.0/24", "2001:db8::/48"."""
    return f"{IPv6Address((key ^ _IPV6) << 80)}/48" if key & _IPV6 else f"{IPv4Address(key << 8)}/24"


def bounded_name(user: str) -> str:
    """An account's name as it is counted by, of a bounded length. It is compared as the accounts file does it, or
    some writings of a name would be banned together only where there is such an account."""
    user = user[:_LONGEST_COMPARED]
    name = user.lower() if user.isascii() else account_key(user)
    if len(name) <= _LONGEST_NAME:
        return name
    digest = blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{name[: _LONGEST_NAME - 17]}~{digest}"


def _in_reply(user: str) -> str:
    """An account's name for a reply's one line: ASCII (RFC 5321 §4.2), and not long."""
    return "account " + "".join(c if c.isascii() and c.isprintable() else "?" for c in user[:64])


def _read_address(text: str) -> int | None:
    """The key of an address, or of an IPv6 network as `shown_address` writes it."""
    try:
        address = unmapped(ip_address(text.strip().removesuffix("/64")))
    except ValueError:
        return None
    return None if "/" in text and address.version == 4 else address_key(address)


def _banned(who: str) -> Refuse:
    # The same words whoever is banned: which names are accounts is nobody's business.
    return Refuse(f"limits.logins: {who} is banned", Reply(454, "4.7.0", "Too many failed logins, try again later"))
