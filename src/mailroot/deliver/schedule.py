"""The Delivery tab: when a message is tried again, when its sender hears of a delay, when we give up."""

from dataclasses import dataclass
from typing import Annotated

from mailroot.units import DAY, HOUR, MINUTE, Doc, Duration, Range


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """The intervals of the Delivery tab."""

    first_retry: Annotated[Duration, Range(least=1), Doc("First retry interval.")] = 15 * MINUTE
    second_retry: Annotated[Duration, Range(least=1), Doc("Second retry interval.")] = 30 * MINUTE
    third_retry: Annotated[Duration, Range(least=1), Doc("Third retry interval.")] = 60 * MINUTE
    subsequent_retry: Annotated[Duration, Range(least=1), Doc("Subsequent retry interval.")] = 240 * MINUTE
    delay_notification: Annotated[
        Duration, Doc("Tell the sender once when a message has waited this long; 0: never.")
    ] = 12 * HOUR
    expiration: Annotated[Duration, Range(least=60), Doc("Give up and report failure after this time.")] = 2 * DAY
    local_delay_notification: Annotated[Duration, Doc("The same for the Drop folder; 0: never.")] = 12 * HOUR
    local_expiration: Annotated[Duration, Range(least=60), Doc("The same for the Drop folder.")] = 2 * DAY
