"""Who may use shared memory.

A region is open to every caller who knows its name, and the server opens segments with its own
rights. That is for callers on the same host alone, unless the settings say otherwise.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

from lanewise.errors import NotAllowed
from lanewise.rpc.methods import Call
from lanewise.settings.server import SharedMemory


class RegionAccess:
    """Decides for each call whether it may use shared memory."""

    def __init__(self, setting: SharedMemory) -> None:
        self._setting = setting

    @property
    def is_offered(self) -> bool:
        return self._setting != "off"

    def require(self, call: Call) -> None:
        """Check that this call may use shared memory.

        Raises:
            NotAllowed: the message names the setting.
        """
        if self._setting == "on":
            return
        if self._setting == "off":
            raise NotAllowed("shared memory is off on this server (--shared-memory off)")
        if not is_local(call.peer()):
            raise NotAllowed(
                "shared memory is for callers over loopback (--shared-memory auto), and this call "
                f"comes from {call.peer()}; call the server at 127.0.0.1, or send contents in the "
                "message"
            )


def is_local(peer: str) -> bool:
    """Whether a peer, as gRPC writes it, is on this host: "ipv6:%5B::1%5D:50123", "unix:"."""
    scheme, _, address = peer.partition(":")
    if scheme == "unix":
        return True
    if scheme not in ("ipv4", "ipv6"):
        return False
    host = unquote(address).rpartition(":")[0].strip("[]")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
