"""Network configuration lists for the tests: one plugin of ours, with the capabilities engines use."""

from __future__ import annotations

import json
import re
from typing import Any

CAPABILITIES = {"portMappings": True, "ips": True, "mac": True, "aliases": True}


def conflist(
    name: str,
    bridge: str,
    *subnets: str,
    version: str = "1.0.0",
    **keys: Any,
) -> str:
    """A conflist of our bridge over ``subnets``, one range set each; further keys go into the plugin."""
    plugin = {
        "type": "bridge",
        "bridge": bridge,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "capabilities": CAPABILITIES,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": subnet}] for subnet in subnets],
            "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets],
        },
        **keys,
    }
    return json.dumps({"cniVersion": version, "name": name, "plugins": [plugin]}, indent=2)


def addresses_of(shown: str) -> list[str]:
    """The addresses without prefix length in what ``ip address show`` prints, link-local ones left out."""
    return [address for address in re.findall(r"inet6? ([^/\s]+)/", shown) if not address.startswith("fe80:")]
