"""What it means that a message matches a `Search`, the same for every engine. Pure; no I/O."""

from mailroot.queue.base import Record, Search


def has_text(search: Search) -> bool:
    """Whether any condition looks into a record's texts."""
    return bool(search.sender or search.recipient or search.subject or search.message_id or search.text)


def matches(search: Search, record: Record) -> bool:
    """Whether every condition that is given holds. `since` is included, `until` and `before` are not; `text` may
    stand in sender, recipients, subject or message id."""
    return (
        (not search.ids or record.id in search.ids)
        and (not search.states or record.state in search.states)
        and (search.before is None or record.id < search.before)
        and (search.since is None or record.message.origin.arrived >= search.since)
        and (search.until is None or record.message.origin.arrived < search.until)
        and (not has_text(search) or matches_text(search, record))
    )


def matches_text(search: Search, record: Record) -> bool:
    """Whether the conditions on texts hold."""
    message = record.message
    sender = str(message.envelope.sender or "").lower()
    recipients = [str(standing.recipient.address).lower() for standing in record.standings]
    subject = message.subject.lower()
    message_id = message.message_id.lower()
    wanted = search.recipient.lower()
    text = search.text.lower()
    return (
        search.sender.lower() in sender
        and (not wanted or any(wanted in recipient for recipient in recipients))
        and search.subject.lower() in subject
        and search.message_id.lower() in message_id
        and (not text or any(text in each for each in (sender, *recipients, subject, message_id)))
    )
