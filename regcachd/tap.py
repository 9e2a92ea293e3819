"""The options of `twistd regcache`, and the configuration that they and the files make."""

import os
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.python import usage

from regcachd import __version__
from regcachd.authentication import check_credentials, find_plugins, kinds_of
from regcachd.config import Config, ConfigError, Sources
from regcachd.documents import INSTALLED, documents
from regcachd.errors import RegcachdError
from regcachd.heartbeat import Heartbeat
from regcachd.notify import ServiceManager
from regcachd.refusal import refusal
from regcachd.reloading import Reread
from regcachd.service import RegcacheService
from regcachd.workers import Workers, how_many

_EXAMPLES = f"""
The configuration is FILE, then every conf.d/*.toml beside it in the order of
their names; each adds to those before it, and of two values of one key the
later wins. Without --config that is {INSTALLED} if it
exists; if not, defaults hold that suit a first try. Options win over files.

Where the program comes from decides its name: twistd from PyPI, twistd3 from
Debian's package python3-twisted. Its own options, such as -n (stay in the
foreground), --pidfile and --logfile, come before the word regcache.

Examples:
  twistd -n regcache
        port 3128, the well-known registries, the installed paths
  twistd -n regcache --state ./var/state --store ./var/cache --max-size 50GiB
        as an ordinary user, everything kept under ./var
  twistd -n regcache --listen tcp:3128:interface=10.0.0.1
        for the cluster's network only
  twistd -n regcache --registry registry.site.example:5443
  twistd -n regcache --registry lab=http://10.0.0.7:5000
        one more registry, and one whose name is not its address
  twistd3 regcache --config /etc/regcachd/regcachd.toml
        on Debian, in the background

Then set HTTPS_PROXY=http://HEAD:3128 for the client, and let it trust
http://HEAD:3128/ca.crt.
"""


class Options(usage.Options):
    """`twistd regcache OPTIONS`; `configuration` makes them a Config."""

    synopsis = "[options]"
    optParameters = [
        ["config", "c", None, f"Read this file, and conf.d/*.toml beside it [default: {INSTALLED}]"],
        ["store", None, None, "Keep blobs in this directory [default: /var/cache/regcachd]"],
        [
            "max-size",
            None,
            None,
            'Let the store grow to this size: "500GiB", "80%" of its disk [default: 80%]',
        ],
        ["state", None, None, "Keep the CA and small state in this directory [default: /var/lib/regcachd]"],
        [
            "admin",
            None,
            None,
            "Answer regcachctl on this Unix socket [default: /run/regcachd/admin.sock, or admin.sock in "
            "the state directory where that place is not writable]",
        ],
    ]

    def opt_listen(self, where: str) -> None:
        """Listen here: dual:PORT (IPv6 and IPv4) or any Twisted endpoint; repeatable [default: dual:3128]"""
        self.setdefault("listen", []).append(where)

    def opt_registry(self, name: str) -> None:
        """Cache this registry too: NAME, or NAME=URL where its address is another; repeatable"""
        self.setdefault("registry", []).append(name)

    def opt_version(self) -> None:
        """Display regcachd's version and exit."""
        print(f"regcachd {__version__}")
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        """The options, then examples; usage.Options would reflow these if they were its longdesc."""
        return super().getUsage(width) + _EXAMPLES


def makeService(options: Options) -> IService:
    """What twistd runs. Exits with one line when the configuration, the CA or the store cannot be used.

    A service manager that waits for news of the daemon, as the environment says, gets them.
    """
    from twisted.internet import reactor  # not before twistd has chosen one

    manager = ServiceManager.of(os.environ)
    try:
        sources, config = _read(options)
        check_credentials(reactor, config.registries.values(), find_plugins())
        daemon = _daemon(reactor, sources, config, lambda: _read(options), manager)
    except (RegcachdError, usage.UsageError) as error:
        raise refusal(error) from None
    if manager is None:
        return daemon
    both = MultiService()
    daemon.setServiceParent(both)
    Heartbeat(reactor, manager, daemon).setServiceParent(both)
    return both


def _daemon(
    reactor: Any, sources: Sources, config: Config, reread: Reread, manager: ServiceManager | None
) -> RegcacheService | Workers:
    workers = how_many(config.workers)
    if workers == 1:
        return RegcacheService(reactor, config, reread=reread, manager=manager)
    return Workers(reactor, sources, config, workers, reread, manager)


def _read(options: Options) -> tuple[Sources, Config]:
    sources = read_sources(options)
    return sources, configuration(sources)


def read_sources(options: Options, installed: Path = INSTALLED) -> Sources:
    """The files and options that make the configuration; usage.UsageError, one line long, if a file is not readable."""
    given = options["config"]
    try:
        found = documents(installed if given is None else Path(given), needed=given is not None)
    except ConfigError as error:
        raise usage.UsageError(str(error)) from None
    return Sources(
        tuple(found),
        {
            "listen": options.get("listen"),
            "store": options["store"],
            "max_size": options["max-size"],
            "state": options["state"],
            "admin": options["admin"],
            "registries": options.get("registry", ()),
        },
    )


def configuration(sources: Sources) -> Config:
    """The configuration that they make; usage.UsageError, one line long, if they make none."""
    try:
        return sources.config(kinds_of(find_plugins()))
    except ConfigError as error:
        raise usage.UsageError(str(error)) from None
