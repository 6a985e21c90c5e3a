"""What follows from the settings of a virtual server alone."""

import pytest

from mailroot.config.model import DeliverySettings, VirtualServerSettings
from mailroot.deliver.hosts import NoHosts
from mailroot.deliver.route import AdvancedDelivery, ToHosts
from mailroot.mail.address import Address
from mailroot.plan import Plan
from mailroot.policy.listeners import ListenerSettings
from mailroot.receive.listeners import GeneralSettings

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("port", [2525, 2587])
async def test_a_smart_host_that_is_one_of_our_own_listeners_is_a_circle(port: int) -> None:
    general = GeneralSettings(listen=("127.0.0.1:2525",), listeners=(ListenerSettings("127.0.0.1:2587"),))
    delivery = DeliverySettings(advanced=AdvancedDelivery(smart_host=(f"[127.0.0.1]:{port}",)))
    plan = Plan.of(VirtualServerSettings("default", general=general, delivery=delivery), "relay.example.com")
    route = plan.router.route(Address("a", "example.net"))
    assert isinstance(route, ToHosts)
    found = await plan.hosts.find(route)
    assert isinstance(found, NoHosts)
    assert found.reply.status == "4.4.6"
