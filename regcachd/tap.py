"""The options of `twistd regcache`, and the configuration that they and the files make."""

from pathlib import Path

from twisted.python import usage

from regcachd import __version__
from regcachd.config import Config, ConfigError, Sources
from regcachd.errors import RegcachdError
from regcachd.service import RegcacheService
from regcachd.workers import Workers, how_many

INSTALLED = Path("/etc/regcachd/regcachd.toml")
"""What is read without --config, if it is there."""

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


def makeService(options: Options) -> RegcacheService | Workers:
    """What twistd runs. Exits with one line when the configuration, the CA or the store cannot be used."""
    from twisted.internet import reactor  # not before twistd has chosen one

    try:
        sources = read_sources(options)
        config = configuration(sources)
        workers = how_many(config.workers)
        if workers == 1:
            return RegcacheService(reactor, config)
        return Workers(reactor, sources, config, workers)
    except (RegcachdError, usage.UsageError) as error:
        raise SystemExit(f"regcachd does not start: {error}") from None


def read_sources(options: Options, installed: Path = INSTALLED) -> Sources:
    """The files and options that make the configuration; usage.UsageError, one line long, if a file is not readable."""
    given = options["config"]
    try:
        documents = _documents(installed if given is None else Path(given), needed=given is not None)
    except ConfigError as error:
        raise usage.UsageError(str(error)) from None
    return Sources(
        tuple(documents),
        {
            "listen": options.get("listen"),
            "store": options["store"],
            "max_size": options["max-size"],
            "state": options["state"],
            "registries": options.get("registry", ()),
        },
    )


def configuration(sources: Sources) -> Config:
    """The configuration that they make; usage.UsageError, one line long, if they make none."""
    try:
        return sources.config()
    except ConfigError as error:
        raise usage.UsageError(str(error)) from None


def _documents(main: Path, *, needed: bool) -> list[tuple[str, str]]:
    """The texts of `main` and of conf.d beside it; none if there is no `main` and none is needed."""
    if not needed and _is_missing(main):
        return []
    try:
        beside = sorted(path for path in (main.parent / "conf.d").iterdir() if _is_toml(path))
    except (FileNotFoundError, NotADirectoryError):
        beside = []
    except OSError as error:  # Path.glob would find nothing, and what the directory says would be lost
        raise ConfigError(str(main.parent / "conf.d"), "not readable", str(error.strerror)) from None
    return [(str(path), _read(path)) for path in (main, *beside)]


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # there may be one, and reading it will say what is wrong
    return False


def _is_toml(path: Path) -> bool:
    return path.suffix == ".toml" and not path.name.startswith(".")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), "not readable", str(error.strerror)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "not TOML", f"byte {error.start} is not UTF-8") from None
