"""Files of users: what is taken, what is refused and how that is said, and which passwords are right."""

import builtins
import importlib.util
from typing import Any

import argon2
import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.htpasswd import BadUsers, is_right, parse_users

BCRYPT = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("secret")
BY_HTPASSWD = "$2y$05$4vBUlTGFS3ITtJo0EoBpSOkLkpUDsE1rmpLOHnXvIUcFkZsBdLZJy"
"""`htpasswd -nbB ada "correct horse"`"""


def test_users_by_name() -> None:
    """Comments and empty lines are nobody."""
    text = f"# the site's users\n\nada:{BCRYPT}\r\ngrace hopper:{ARGON2}\n  \njosé:{BY_HTPASSWD}"
    assert parse_users(text) == {"ada": BCRYPT, "grace hopper": ARGON2, "josé": BY_HTPASSWD}
    assert parse_users("") == {}


@pytest.mark.parametrize("hashed", [BCRYPT, ARGON2, BCRYPT.replace("$2b$", "$2y$")])
def test_the_right_password_and_no_other_is_right(hashed: str) -> None:
    assert is_right(hashed, b"secret")
    for wrong in b"", b"Secret", b"secret ", b"secret\xff", b"x" * 5000:
        assert not is_right(hashed, wrong)


def test_a_long_password_counts_as_far_as_bcrypt_looks() -> None:
    password = "é".encode() * 50
    hashed = bcrypt.hashpw(password[:72], bcrypt.gensalt(4)).decode()
    assert is_right(hashed, password)
    assert not is_right(hashed, password[:71])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ada", ["line 1", "USER:HASH"]),
        (f"ada:{BCRYPT}\n:{BCRYPT}", ["line 2", "USER:HASH"]),
        (f"a\tb:{BCRYPT}", ["line 1", "USER:HASH"]),
        (f"ada:{BCRYPT}\nada:{BCRYPT}", ["line 2", "second", '"ada"']),
        ("\n\nada:$apr1$salt$0123456789012345678901", ["line 3", '"ada"', "MD5", "htpasswd -B"]),
        ("ada:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=", ["SHA-1", "htpasswd -B"]),
        ("ada:$6$salt$" + "x" * 86, ["SHA-512", "htpasswd -B"]),
        ("ada:rl0uE7B2cgRnE", ["crypt", "htpasswd -B"]),
        ("ada:secret", ["crypt, or not at all", "htpasswd -B"]),
        ("ada:", ["crypt, or not at all"]),
        (f"ada:{BCRYPT[:-1]}", ["not a whole hash"]),
        (f"ada:{BCRYPT}:Ada", ["not a whole hash"]),
        (f"ada:{BCRYPT.replace('$04$', '$31$')}", ["cost 31", "expected 4 to 16"]),
        (f"ada:{BCRYPT.replace('$04$', '$03$')}", ["cost 3"]),
        (f"ada:{ARGON2.replace('m=64', 'm=9999999')}", ["1 GiB"]),
        (f"ada:{ARGON2[:40]}", ["not a whole hash"]),
    ],
)
def test_what_cannot_be_used_is_named_and_a_way_out_with_it(text: str, words: list[str]) -> None:
    with pytest.raises(BadUsers) as caught:
        parse_users(text)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "secret" not in message
    assert "salt" not in message


@pytest.mark.parametrize(("hashed", "module"), [(BCRYPT, "bcrypt"), (ARGON2, "argon2")])
def test_a_library_that_is_missing_is_missed_only_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, hashed: str, module: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("regcachd.htpasswd.find_spec", lambda name: None if name == module else found(name))
    with pytest.raises(BadUsers, match=f"needs the Python package {module} .*Debian: python3-{module}"):
        parse_users(f"ada:{hashed}")
    parse_users("ada:" + (ARGON2 if module == "bcrypt" else BCRYPT))


@given(st.text(st.sampled_from("a:$2by04.\n{}SHA#é\0 "), max_size=80))
def test_whatever_a_file_says_is_users_or_one_line(text: str) -> None:
    try:
        users: Any = parse_users(text)
    except BadUsers as error:
        users = str(error)
        assert "\n" not in users
    assert isinstance(users, builtins.dict | str)
