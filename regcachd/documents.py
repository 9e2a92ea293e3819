"""The configuration's files, read for `config.parse_config`."""

from pathlib import Path

from regcachd.config import ConfigError

INSTALLED = Path("/etc/regcachd/regcachd.toml")
"""What is read unless another file is named, if it is there."""


def documents(main: Path, *, needed: bool) -> list[tuple[str, str]]:
    """The texts of `main` and of conf.d beside it; none if there is no `main` and none is needed.

    Raises ConfigError.
    """
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
