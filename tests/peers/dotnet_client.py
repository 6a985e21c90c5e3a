"""Sends mail with Microsoft's System.Net.Mail.SmtpClient; a program of its own, because a process has one runtime.

Reads JSON from standard input: host, port or pickup (a folder), perhaps user, password and domain, and messages
with from, to, subject, body and, if there is one, attachment (base64). Sends all with one SmtpClient and prints
a JSON list: for each message "" or the SmtpException's status code and text.
"""

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import clr_loader
import dotnetcore2
import pythonnet

_RUNTIME = {
    "runtimeOptions": {
        "tfm": "netcoreapp3.1",
        "framework": {"name": "Microsoft.NETCore.App", "version": "3.1.23"},
        "configProperties": {"System.Globalization.Invariant": True},
    }
}


def load_runtime() -> None:
    """Start .NET Core in this process."""
    root = Path(dotnetcore2.__file__).parent / "bin"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runtimeconfig.json"
        config.write_text(json.dumps(_RUNTIME), encoding="utf-8")
        pythonnet.set_runtime(clr_loader.get_coreclr(runtime_config=str(config), dotnet_root=str(root)))
        import clr

        clr.AddReference("System.Net.Mail")


def send_all(order: dict[str, Any]) -> list[str]:
    """What became of each message."""
    from System.IO import MemoryStream
    from System.Net import NetworkCredential
    from System.Net.Mail import Attachment, MailMessage, SmtpClient, SmtpDeliveryMethod, SmtpException

    # The name of the service is made of the host where the constructor is told it, and there alone.
    client = SmtpClient(order["host"], order["port"]) if order.get("host") else SmtpClient()
    client.Timeout = 60_000
    if order.get("user"):
        client.Credentials = NetworkCredential(order["user"], order["password"], order.get("domain", ""))
    if order.get("pickup"):
        client.DeliveryMethod = SmtpDeliveryMethod.SpecifiedPickupDirectory
        client.PickupDirectoryLocation = order["pickup"]
    fates = []
    for one in order["messages"]:
        mail = MailMessage(one["from"], ",".join(one["to"]), one["subject"], one["body"])
        if one.get("attachment"):
            mail.Attachments.Add(Attachment(MemoryStream(base64.b64decode(one["attachment"])), "octets.bin"))
        try:
            client.Send(mail)
            fates.append("")
        except SmtpException as error:
            fates.append(f"{error.StatusCode}: {error.Message}")
        finally:
            mail.Dispose()
    client.Dispose()
    return fates


if __name__ == "__main__":
    load_runtime()
    json.dump(send_all(json.load(sys.stdin)), sys.stdout)
