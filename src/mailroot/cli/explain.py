"""`mailroot explain`: what would become of a message, and which rule decides."""

from collections.abc import Mapping
from typing import Any

from mailroot.cli.client import Service
from mailroot.cli.tables import Column, plain, say, say_json, show_table


def explain(service: Service, question: Mapping[str, str | int]) -> bool:
    """Ask and show; the question's keys are the API's. Whether the message would be taken. Raises Failure."""
    answer = service.get("/v1/explain", dict(question))
    if service.json:
        say_json(answer)
    else:
        _show(answer)
    return bool(answer["accepted"])


def _show(answer: dict[str, Any]) -> None:
    name = f" ({answer['client_name']})" if answer["client_name"] else ""
    login = f", logged in as {answer['user']}" if answer["user"] else ""
    listener = f", listener {answer['listener']}" if answer["listener"] else ""
    say(
        plain(
            f"From {answer['sender'] or '<>'} to {answer['recipient']}, by client {answer['client']}{name}{login}, "
            f"at virtual server {answer['server']}{listener}"
        )
    )
    say()
    for step in answer["steps"]:
        mark = {"yes": "yes", "no": "NO ", "note": "   "}[step["answer"]]
        say(plain(f"{mark}  {step['question']}"))
        for line in (step["rule"], step["reply"] and f"the client is told: {step['reply']}"):
            if line:
                say(f"       {plain(line)}")
    if answer["hosts"]:
        say()
        show_table(
            [
                Column("", right=True),
                Column("HOST", least=16),
                Column("ADDRESS", least=16),
                Column("PORT", right=True),
                Column("TLS", rank=1),
                Column("LOGIN", rank=2, least=10),
                Column("NOTE", rank=3, least=20),
            ],
            [_host_row(number, host) for number, host in enumerate(answer["hosts"], 1)],
        )
    say()
    say(plain(answer["result"]))


def _host_row(number: int, host: dict[str, Any]) -> list[str]:
    note = "only if the ones before fail for now" if host["fallback"] else ""
    return [
        str(number),
        host["name"],
        host["address"],
        str(host["port"]),
        host["tls"],
        host["login"] or "none",
        note,
    ]
