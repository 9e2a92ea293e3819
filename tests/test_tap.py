"""The command line and the files, as twistd and a person see them."""

import os
from pathlib import Path

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError

from regcachd import __version__
from regcachd.config import Config, Size
from regcachd.documents import INSTALLED
from regcachd.tap import Options, configuration, read_sources


def options(*arguments: str) -> Options:
    parsed = Options()
    parsed.parseOptions(list(arguments))
    return parsed


def read(*arguments: str, installed: Path = INSTALLED) -> Config:
    return configuration(read_sources(options(*arguments), installed))


def _help() -> str:
    return str(Options())


def refusal(tmp_path: Path, *arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(*arguments, installed=tmp_path / "absent.toml")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_without_options_and_files_the_defaults_hold(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text('state = "ignored without its main file"')
    assert read(installed=tmp_path / "absent.toml") == Config()


def test_the_installed_file_is_read_unless_another_is_given(tmp_path: Path) -> None:
    installed, other = tmp_path / "regcachd.toml", tmp_path / "other.toml"
    installed.write_text('state = "installed"')
    other.write_text('state = "other"')
    assert read(installed=installed).state == "installed"
    assert read("-c", str(other), installed=installed).state == "other"
    assert read("--config", str(other), installed=installed).state == "other"


def test_files_of_conf_d_follow_in_the_order_of_their_names(tmp_path: Path) -> None:
    main, more = tmp_path / "regcachd.toml", tmp_path / "conf.d"
    more.mkdir()
    main.write_text('listen = ["dual:1"]\nstate = "main"\n[store]\npath = "main"')
    (more / "20.toml").write_text('state = "20"\n')
    (more / "10.toml").write_text('state = "10"\n[store]\npath = "10"')
    for ignored in (".20.toml.swp", ".hidden.toml", "30.toml~", "30.toml.dpkg-old", "README"):
        (more / ignored).write_text("this is not TOML")
    config = read("-c", str(main))
    assert (config.listen, config.state, config.store.path) == (("dual:1",), "20", "10")


def test_options_win_over_files(tmp_path: Path) -> None:
    main = tmp_path / "regcachd.toml"
    main.write_text('listen = ["dual:1"]\nstate = "main"\n[store]\npath = "main"\n[registries.a]')
    config = read(
        *("--config", str(main)),
        *("--listen", "dual:2", "--listen", "tcp:3"),
        *("--store", "cache", "--max-size", "1GiB", "--state", "state"),
        *("--registry", "quay.io", "--registry", "lab=http://10.0.0.7:5000"),
    )
    assert config.listen == ("dual:2", "tcp:3")
    assert (config.store.path, config.store.max_size, config.state) == ("cache", Size(bytes=1024**3), "state")
    assert set(config.registries) == {"a", "quay.io", "lab"}


def test_an_error_in_a_file_is_one_line_with_its_path(tmp_path: Path) -> None:
    main = tmp_path / "regcachd.toml"
    main.write_text("")
    (tmp_path / "conf.d").mkdir()
    bad = tmp_path / "conf.d" / "bad.toml"
    bad.write_text("listen = 5")
    assert refusal(tmp_path, "-c", str(main)) == f"{bad}: listen = 5: expected a list in square brackets"


def test_an_error_in_an_option_names_the_option(tmp_path: Path) -> None:
    assert refusal(tmp_path, "--max-size", "big").startswith(
        'command line: --max-size = "big": expected bytes'
    )


def test_a_file_that_is_not_there_or_not_readable_is_an_error(tmp_path: Path) -> None:
    assert "absent: not readable: No such file" in refusal(tmp_path, "-c", str(tmp_path / "absent"))
    assert "not readable: Is a directory" in refusal(tmp_path, "-c", str(tmp_path))


def test_a_dangling_link_in_conf_d_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "regcachd.toml").write_text("")
    (tmp_path / "conf.d").mkdir()
    os.symlink("nowhere", tmp_path / "conf.d" / "a.toml")
    assert "a.toml: not readable: No such file" in refusal(tmp_path, "-c", str(tmp_path / "regcachd.toml"))


def test_a_conf_d_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    """Here a loop of links; in life a directory that the daemon's user may not read."""
    (tmp_path / "regcachd.toml").write_text("")
    os.symlink("conf.d", tmp_path / "conf.d")
    assert "conf.d: not readable: " in refusal(tmp_path, "-c", str(tmp_path / "regcachd.toml"))


def test_a_file_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"# caf\xe9\n")
    assert "latin: not TOML: byte 5 is not UTF-8" in refusal(tmp_path, "-c", str(tmp_path / "latin"))


@pytest.mark.parametrize("arguments", [["--stoer", "x"], ["surplus"], ["--store"]])
def test_an_unknown_or_incomplete_option_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        options(*arguments)


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--help")
    text = capsys.readouterr().out
    for taught in (
        *("--config=", "--listen=", "--store=", "--max-size=", "--registry=", "--state="),
        *("twistd3", "PyPI", "/etc/regcachd/regcachd.toml", "conf.d", "Examples:\n  twistd -n regcache\n"),
    ):
        assert taught in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_examples_of_the_help_are_understood(tmp_path: Path) -> None:
    lines = [line.split() for line in _help().splitlines() if line.startswith("  twistd")]
    assert len(lines) >= 5
    for line in lines:
        arguments = line[line.index("regcache") + 1 :]
        if "--config" in arguments:
            continue
        assert isinstance(read(*arguments, installed=tmp_path / "absent.toml"), Config)


def test_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--version")
    assert capsys.readouterr().out == f"regcachd {__version__}\n"


def test_twistd_finds_the_plugin() -> None:
    (found,) = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "regcache"]
    assert found.options is Options
    assert "container registries" in found.description
