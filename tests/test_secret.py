"""Secrets are named by where they are, read when they are needed, and shown by nothing."""

from pathlib import Path

import pytest

from regcachd.secret import LARGEST, Secret, SecretUnreadable, secret
from regcachd.units import BadSecret


@pytest.mark.parametrize("value", ["file:/etc/x", "file:/a b", "credential:ngc", "credential:a.b-c"])
def test_a_secret_is_a_place(value: str) -> None:
    assert secret(value) == Secret(value)


@pytest.mark.parametrize(
    "value",
    [
        "hunter2",
        "",
        "file:",
        "file:hunter2",
        "file:/a\0hunter2",
        "credential:",
        "credential:../hunter2",
        "credential:/hunter2",
        "credential:..",
        "credential:a\nhunter2",
        "FILE:/hunter2",
        "env:hunter2",
        7,
        None,
        ["hunter2"],
        {"file": "hunter2"},
    ],
)
def test_anything_else_is_refused_without_being_repeated(value: object) -> None:
    with pytest.raises(BadSecret, match='expected "file:/PATH" or "credential:NAME"') as caught:
        secret(value)
    assert "hunter2" not in str(caught.value)


def test_an_environment_variable_is_refused_with_a_hint() -> None:
    with pytest.raises(
        BadSecret, match="environment variables are seen by others; write it to a file of mode 0600"
    ):
        secret("env:PASSWORD")


@pytest.mark.parametrize(
    ("written", "text"),
    [(b"x", "x"), (b"x\n", "x"), (b"x\r\n", "x"), (b" x y \n", " x y "), ("p\u00e4ss".encode(), "p\u00e4ss")],
)
def test_a_file_is_its_text_without_the_end_of_its_last_line(
    tmp_path: Path, written: bytes, text: str
) -> None:
    (tmp_path / "s").write_bytes(written)
    assert Secret(f"file:{tmp_path}/s").read() == text


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    found = Secret(f"file:{tmp_path}/s")
    for text in ("old", "new"):
        (tmp_path / "s").write_text(text)
        assert found.read() == text


def test_a_credential_is_in_the_directory_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "ngc").write_text("key")
    assert secret("credential:ngc").read() == "key"


def test_without_systemd_there_are_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(SecretUnreadable, match="the unit needs LoadCredential=ngc:/PATH"):
        secret("credential:ngc").read()


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"", "empty"),
        (b"\n", "empty"),
        (b"hunter2\xff", "not UTF-8 text"),
        (b"hunter2" * LARGEST, "larger than"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_place(tmp_path: Path, written: bytes | None, why: str) -> None:
    if written is not None:
        (tmp_path / "s").write_bytes(written)
    with pytest.raises(SecretUnreadable, match=f"^file:{tmp_path}/s: {why}") as caught:
        Secret(f"file:{tmp_path}/s").read()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "whom"),
    [
        (0o600, None),
        (0o400, None),
        (0o640, "its group"),
        (0o604, "everybody"),
        (0o644, "everybody"),
        (0o620, None),
    ],
)
def test_who_else_may_read_it_is_told(tmp_path: Path, mode: int, whom: str | None) -> None:
    (tmp_path / "s").touch()
    (tmp_path / "s").chmod(mode)
    assert Secret(f"file:{tmp_path}/s").exposed_to() == whom
