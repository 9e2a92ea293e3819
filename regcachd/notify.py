"""What a service manager is told of a daemon, and how: sd_notify(3), one datagram for each message.

READY=1                  it serves
STATUS=...               one line for people
WATCHDOG=1               it is alive; without that for WATCHDOG_USEC it is ended and started again
STOPPING=1               it is about to end
EXTEND_TIMEOUT_USEC=...  and will take that long
"""

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

from attrs import field, frozen


@frozen
class ServiceManager:
    """Who has started this process and wants to hear from it, such as systemd for a unit of `Type=notify`."""

    address: str
    """A Unix socket: a path, or `@` and a name in the abstract namespace."""
    watchdog: float | None
    """Seconds after which silence is taken for death; None if nobody minds."""
    _socket: socket.socket = field(init=False, repr=False, eq=False)

    @_socket.default
    def _open(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        made.setblocking(False)
        return made

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> "ServiceManager | None":
        """The one that the environment names, or None. What named it is removed: it is not for processes we start."""
        address = environ.pop("NOTIFY_SOCKET", "")
        period = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return None
        is_ours = period.isdigit() and int(period) > 0 and watched in ("", str(os.getpid()))
        return cls(address, int(period) / 1e6 if is_ours else None)

    def tell(self, **states: object) -> None:
        """Send these states, such as `READY=1`, as one message."""
        if not states:
            return
        lines = [f"{name}={' '.join(str(state).split())}" for name, state in states.items()]
        to = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with suppress(OSError):  # one that does not listen, or is too busy, acts on our silence
            self._socket.sendto("\n".join(lines).encode(), to)

    def close(self) -> None:
        """Nothing more will be told."""
        self._socket.close()
