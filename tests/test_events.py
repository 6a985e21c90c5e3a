"""Every event is published somewhere, and the page about them says what they are; and the bus."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from mailroot.clock import ManualClock
from mailroot.events import Bus, Event, InternalError, QueueRecovered

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "mailroot"
PAGE = (ROOT / "docs" / "events.md").read_text("utf-8")


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("events_page", ROOT / "scripts" / "events_page.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


KINDS = [kind for below in _script().kinds().values() for kind in below]


def _made() -> set[str]:
    """The names that are called in the source, outside of the module that defines the events."""
    return {
        node.func.id
        for file in SOURCE.rglob("*.py")
        if file != SOURCE / "events.py"
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def test_every_event_is_published_somewhere() -> None:
    assert {kind.__name__ for kind in KINDS} == {kind.__name__ for kind in Event.__subclasses__()}
    assert {kind.__name__ for kind in KINDS} - _made() == set()


def test_every_event_says_what_it_is() -> None:
    assert [kind.__name__ for kind in KINDS if not (kind.__doc__ or "").strip().endswith((".", "…"))] == []


def test_the_page_lists_them_as_they_are() -> None:
    assert _script().with_events(PAGE) == PAGE, "run scripts/events_page.py"


def test_the_page_explains_every_field() -> None:
    table = PAGE.partition("## What the fields mean")[2].partition("<!--")[0]
    explained = {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"\w+", row)
    }
    there = {name for kind in KINDS for name in _script().own_fields(kind)} | {"server"}
    assert there - explained == set()
    assert explained - there == set()


def test_the_bus_carries_each_event_to_all_in_their_order() -> None:
    clock = ManualClock()
    bus = Bus(clock)
    heard: list[tuple[str, float, Event]] = []
    forget = bus.subscribe(lambda when, event: heard.append(("first", when, event)))
    bus.subscribe(lambda when, event: heard.append(("second", when, event)))
    event = QueueRecovered("default")
    bus.publish(event)
    assert heard == [("first", clock.now(), event), ("second", clock.now(), event)]
    forget()
    forget()
    clock.turn(60.0)
    bus.publish(event)
    assert heard[2:] == [("second", clock.now(), event)]


def test_a_subscriber_that_fails_is_dropped_and_the_others_are_told() -> None:
    bus = Bus(ManualClock())
    heard: list[Event] = []
    calls = []

    def broken(when: float, event: Event) -> None:
        calls.append(event)
        raise ZeroDivisionError("a fault of its own")

    bus.subscribe(broken)
    bus.subscribe(lambda when, event: heard.append(event))
    event = QueueRecovered("default")
    bus.publish(event)
    bus.publish(event)
    assert calls == [event]
    fault, *rest = heard
    assert isinstance(fault, InternalError)
    assert "a fault of its own" in fault.error
    assert rest == [event, event]
