"""What was just stored and waits in memory for this process's next `claim`, leased already: bounded, in order."""

from collections import OrderedDict

from mailroot.queue.base import Claim, MessageId
from mailroot.queue.stored import StoredContent

MESSAGES = 1000
OCTETS = 16 * 1024 * 1024
"""Messages that wait here at most, and octets of their bodies."""


class Fresh:
    """The claims by id, the oldest first. What is on its way into the database is counted from `reserve` on."""

    def __init__(self) -> None:
        self._claims: OrderedDict[MessageId, Claim] = OrderedDict()
        self._messages = 0
        self._octets = 0

    def __len__(self) -> int:
        return len(self._claims)

    def __contains__(self, id: object) -> bool:
        return id in self._claims

    @property
    def due(self) -> float | None:
        """When the first fell due; None if there is none."""
        return next(iter(self._claims.values())).record.due if self._claims else None

    def reserve(self, octets: int) -> bool:
        """Whether there is room for one more, which then must be added or given up."""
        if self._messages >= MESSAGES or self._octets + octets > OCTETS:
            return False
        self._messages += 1
        self._octets += octets
        return True

    def unreserve(self, octets: int) -> None:
        """Give up what was reserved."""
        self._messages -= 1
        self._octets -= octets

    def add(self, claim: Claim) -> None:
        """Append a claim for which room was reserved."""
        self._claims[claim.record.id] = claim

    def put_back(self, claim: Claim) -> None:
        """Put a claim in front that was taken, or leased for somebody who is gone."""
        self._claims[claim.record.id] = claim
        self._claims.move_to_end(claim.record.id, last=False)
        self._messages += 1
        self._octets += _held(claim)

    def take(self) -> Claim:
        """Remove the first."""
        _, claim = self._claims.popitem(last=False)
        self.unreserve(_held(claim))
        return claim

    def clear(self) -> None:
        """Forget all that wait (not what is on its way)."""
        while self._claims:
            self.take()


def _held(claim: Claim) -> int:
    """Octets of the body that are in memory."""
    return claim.content.held if isinstance(claim.content, StoredContent) else 0
