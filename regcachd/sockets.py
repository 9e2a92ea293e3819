"""Where the admin socket is: what the daemon and regcachctl agree on without talking to each other."""

import os
from collections.abc import Iterator
from pathlib import Path

from .config import Config

DEFAULT = Path("/run/regcachd/admin.sock")
"""Where it is on an installed system."""
NAME = "admin.sock"
"""Its name in the state directory, where that place is not for us."""
TREE = Path("var/state")
"""The state directory of `make run`, from the tree it runs in."""


def socket_path(config: Config) -> Path:
    """Where a daemon with this configuration makes its socket: in its state directory when it is to be at the default
    place and that is missing, or not writable for this user."""
    path = Path(config.admin)
    if path == DEFAULT and not os.access(path.parent, os.W_OK | os.X_OK):
        return Path(config.state) / NAME
    return path


def socket_places(config: Config) -> Iterator[Path]:
    """Where somebody else looks for it, the likeliest first."""
    yield Path(config.admin)
    if Path(config.admin) == DEFAULT:
        yield Path(config.state) / NAME
        yield TREE / NAME
