"""The address on which the servers listen, and how each of them wants it spelled."""

from __future__ import annotations

import re
import socket

from inflight.errors import InflightError

# What looks like an address is not looked up as a name.
_NUMERIC = re.compile(r"[0-9.]+|.*:.*")
_CHOOSE = (
    "Choose another: --host. 127.0.0.1 is this machine alone, 0.0.0.0 every IPv4 address of it, :: every IPv6 one."
)


def resolve_host(host: str) -> str:
    """The IP address that `host`, a name or an address, stands for; of several the first of IPv4, else of IPv6.

    Triton would listen on another address for a name without a word. Raises InflightError for what stands for none.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    flags = socket.AI_NUMERICHOST if _NUMERIC.fullmatch(bare) else 0
    try:
        # The empty string would be every address.
        found = socket.getaddrinfo(bare or ".", None, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        reason = "it is no IP address" if flags else getattr(error, "strerror", None) or "it is no name of a host"
        raise InflightError(f"--host is {host!r}, which has no address: {reason}.", _CHOOSE) from error
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])


def cannot_listen(host: str, port: int, reason: str) -> InflightError:
    """For an address that is not one of this machine's."""
    return InflightError(f"Nothing can listen on {host}, port {port}: {reason}.", _CHOOSE)


def of_libevent(address: str) -> str:
    """As Triton's HTTP and metrics take it."""
    return f"ipv6:{address}" if ":" in address else address


def of_url(address: str) -> str:
    """As URLs have it, and Triton's gRPC takes it."""
    return f"[{address}]" if ":" in address else address
