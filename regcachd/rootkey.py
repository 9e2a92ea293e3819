"""The certificate authority of a service whose user may not have the root's key: `python3 -m regcachd.rootkey`.

Run by root, before the daemon starts and once a day. It makes what is due, as `pki.open_ca` does, and leaves

    STATE/ca        root:GROUP 0750
      root.key      root:root  0600     of no use to whoever takes over the daemon
      root.crt      root:root  0644
      issuing.key   root:GROUP 0640     signs for the configured registries, and for nothing else
      issuing.crt   root:root  0644
    STATE/private   root:GROUP 0770   what the daemon keeps for itself

An operator's own CA is left as it is. A configuration that cannot be used is the daemon's to report.
"""

import argparse
import grp
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from . import journal
from .authentication import PluginUnusable, find_plugins, kinds_of
from .config import Config, ConfigError, parse_config
from .documents import INSTALLED, documents
from .errors import RegcachdError
from .pki import DIRECTORY
from .preparation import PRIVATE, open_configured_ca

_MODES = {"root.key": 0o600, "root.crt": 0o644, "issuing.key": 0o640, "issuing.crt": 0o644}
_FOR_GROUP = ("issuing.key",)


class UnsafeState(RegcachdError):
    """The state directory is in the hands of others than root."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m regcachd.rootkey", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"read this file [default: {INSTALLED}]")
    parser.add_argument("--group", required=True, help="the daemon's group, which gets the issuing CA's key")
    options = parser.parse_args(arguments)
    try:
        found = documents(options.config or INSTALLED, needed=options.config is not None)
        config = parse_config(found, kinds_of(find_plugins()))
    except (ConfigError, PluginUnusable):
        return 0
    try:
        keep(config, grp.getgrnam(options.group).gr_gid)
    except (RegcachdError, KeyError, OSError) as error:
        priority = journal.ERROR if journal.is_journal(sys.stderr) else ""
        print(f"{priority}the certificate authority cannot be looked after: {error}", file=sys.stderr)
        return 1
    return 0


def keep(config: Config, group: int) -> None:
    """Make the CA that this configuration needs, readable for the group without the root's key; and the directory that
    the daemon may write to, since it may not make one in that of its CA.

    Raises PkiError, UnsafeState and OSError.
    """
    state = Path(config.state)
    directory, private = state / DIRECTORY, state / PRIVATE
    if not state.exists():
        state.mkdir(parents=True)
        state.chmod(0o755)  # whatever the umask says: the daemon has to get through
    for path in (state, directory):
        _own(path)
    private.mkdir(exist_ok=True)
    _give(private, group, 0o770)
    if config.ca is not None:
        return
    open_configured_ca(config)
    for name, mode in _MODES.items():
        _give(directory / name, group if name in _FOR_GROUP else os.getegid(), mode)
    _give(directory, group, 0o750)


def _own(path: Path) -> None:
    """Raises UnsafeState where somebody else could put another file, or a link, in place of one of ours."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise UnsafeState(
            f"{path} is not a directory that only root may change; make it one:"
            f" chown root {path}; chmod go-w {path}"
        )


def _give(path: Path, group: int, mode: int) -> None:
    """Owner, group and mode, whatever a copy from elsewhere has brought."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(
            descriptor, mode & 0o700
        )  # nobody is to have the old group's rights, nor the new one's too soon
        os.fchown(descriptor, os.geteuid(), group)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
