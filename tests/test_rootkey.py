"""The CA of a service whose user may not have the root's key."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve

from regcachd.config import CAFiles, Config
from regcachd.pki import open_ca
from regcachd.rootkey import UnsafeState, keep, main

GROUP = os.getegid()
FILES = {"root.key": 0o600, "root.crt": 0o644, "issuing.key": 0o640, "issuing.crt": 0o644}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return evolve(Config(), state=str(tmp_path / "state"))


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


@pytest.mark.parametrize("umask", [0o027, 0o077])
def test_the_group_gets_the_issuing_key_and_not_the_root_s(config: Config, umask: int) -> None:
    before = os.umask(umask)
    try:
        keep(config, GROUP)
    finally:
        os.umask(before)
    directory = Path(config.state) / "ca"
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o755
    assert modes(directory) == FILES
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another group")
def test_every_file_but_the_issuing_key_is_root_s(config: Config) -> None:
    keep(config, 12345)
    directory = Path(config.state) / "ca"
    groups = {path.name: path.stat().st_gid for path in directory.iterdir()}
    assert groups == {"root.key": 0, "root.crt": 0, "issuing.key": 12345, "issuing.crt": 0}
    assert directory.stat().st_gid == 12345


def test_a_second_run_changes_nothing(config: Config) -> None:
    keep(config, GROUP)
    before = {path.name: path.read_bytes() for path in (Path(config.state) / "ca").iterdir()}
    keep(config, GROUP)
    assert {path.name: path.read_bytes() for path in (Path(config.state) / "ca").iterdir()} == before


def test_a_copy_from_another_machine_gets_the_right_modes(config: Config) -> None:
    directory = Path(config.state) / "ca"
    open_ca(directory, ["a.example"], datetime.now(UTC))
    for path in directory.iterdir():
        path.chmod(0o666)
    keep(config, GROUP)
    assert modes(directory) == FILES


def test_the_issuing_certificate_is_renewed_and_the_root_stays(config: Config) -> None:
    directory = Path(config.state) / "ca"
    hosts = {authority.host for authority in config.authorities}
    old = open_ca(directory, hosts, datetime.now(UTC) - timedelta(days=340))
    before = (directory / "issuing.crt").read_bytes()
    keep(config, GROUP)
    assert (directory / "root.crt").read_bytes() == old.root_pem
    assert (directory / "issuing.crt").read_bytes() != before


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_state_directory_that_others_may_change_is_refused(config: Config, mode: int) -> None:
    """Root would otherwise write where somebody else wants it to."""
    Path(config.state).mkdir()
    Path(config.state).chmod(mode)
    with pytest.raises(UnsafeState, match=r"chown root .*; chmod go-w"):
        keep(config, GROUP)


def test_a_link_in_place_of_the_directory_is_refused(config: Config, tmp_path: Path) -> None:
    Path(config.state).mkdir()
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", Path(config.state) / "ca")
    with pytest.raises(UnsafeState):
        keep(config, GROUP)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_daemon_gets_a_directory_of_its_own(config: Config) -> None:
    """Its state directory is root's, so that nobody puts another CA in place of ours."""
    for wanted in (config, evolve(config, ca=CAFiles("/nowhere/ca.crt", "/nowhere/ca.key"))):
        keep(wanted, GROUP)
        private = Path(config.state) / "private"
        assert stat.S_IMODE(private.stat().st_mode) == 0o770
        assert private.stat().st_gid == GROUP


def test_an_operator_s_own_ca_is_left_alone(config: Config) -> None:
    keep(evolve(config, ca=CAFiles("/etc/site.crt", "/etc/site.key")), GROUP)
    assert not (Path(config.state) / "ca").exists()


def test_a_configuration_that_cannot_be_used_is_the_daemon_s_to_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text("listen = 5")
    assert main(["--config", str(tmp_path / "bad.toml"), "--group", "root"]) == 0
    assert capsys.readouterr() == ("", "")


def test_what_goes_wrong_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "good.toml").write_text(f'state = "{tmp_path}/file/state"')
    assert main(["--config", str(tmp_path / "good.toml"), "--group", "root"]) == 1
    assert capsys.readouterr().err.startswith("the certificate authority cannot be looked after: ")
