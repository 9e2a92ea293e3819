"""Who may go through the proxy: users and passwords, what is remembered of them, and what attackers cost."""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from regcachd.admission import (
    BUSY,
    MISSING,
    MOST_WAITING,
    MOST_WRONG,
    REMEMBERED,
    REMEMBERED_WRONG,
    TOO_OFTEN,
    WINDOW,
    WRONG,
    NotAdmitted,
    ProxyUsers,
    said,
)
from regcachd.htpasswd import BadUsers, is_right
from regcachd.secret import Secret
from tests.through import logged

HASHED = {name: bcrypt.hashpw(name.encode() + b"!", bcrypt.gensalt(4)).decode() for name in ("ada", "grace")}
"""Everybody's password is the name with a !."""


def says(name: str, password: str) -> bytes:
    """A header."""
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode())


ADA = says("ada", "ada!")


class Threads:
    """Does at once what it is given, or keeps it waiting; counts the checks."""

    def __init__(self) -> None:
        self.checks: list[str] = []
        self.waiting: list[Deferred[None]] = []
        self.holds = False

    def run(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        if function is not is_right:
            return execute(function, *args)
        self.checks.append(args[0])
        gate: Deferred[None] = Deferred()
        gate.addCallback(lambda _: function(*args))
        if self.holds:
            self.waiting.append(gate)
        else:
            gate.callback(None)
        return gate

    def release(self) -> None:
        """Do what waits."""
        self.holds = False
        waiting, self.waiting = self.waiting, []
        for gate in waiting:
            gate.callback(None)


class Place:
    """Users in a file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "htpasswd"
        self.clock = Clock()
        self.clock.advance(1000)
        self.threads = Threads()
        self.write(HASHED)
        self.users = ProxyUsers(Secret(f"file:{self.path}"), self.threads.run, self.clock.seconds)
        self.users.load()

    def write(self, users: dict[str, str]) -> None:
        """As editors do, with a new file."""
        beside = self.path.with_suffix(".new")
        beside.write_text("".join(f"{name}:{hashed}\n" for name, hashed in users.items()))
        os.replace(beside, self.path)

    def ask(self, header: bytes | None, address: str = "10.0.0.1") -> list[NotAdmitted | None]:
        """The answer, once there is one."""
        answers: list[Any] = []
        Deferred.fromCoroutine(self.users.refusal(header, address)).addBoth(answers.append)
        return answers

    def look(self) -> None:
        """At the file."""
        done: list[Any] = []
        Deferred.fromCoroutine(self.users.look()).addBoth(done.append)
        assert done == [None]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        (ADA, None),
        (b"bAsIc  " + base64.b64encode(b"ada:ada!") + b" ", None),
        (says("grace", "grace!"), None),
        (says("ada", "grace!"), WRONG),
        (says("ada", ""), WRONG),
        (says("ADA", "ada!"), WRONG),
        (says("", "ada!"), WRONG),
        (says("nobody", "ada!"), WRONG),
        (None, MISSING),
        (b"", MISSING),
        (b"Basic", MISSING),
        (b"Basic " + base64.b64encode(b"ada"), MISSING),
        (b"Basic " + base64.b64encode(b"\xff:ada!"), MISSING),
        (b"Basic " + base64.b64encode(b"ada:ada!\0"), MISSING),
        (b"Basic YWRhOmFkYSE", MISSING),
        (b"Bearer " + base64.b64encode(b"ada:ada!"), MISSING),
    ],
)
def test_who_is_let_through(place: Place, header: bytes | None, answer: NotAdmitted | None) -> None:
    assert place.ask(header) == [answer]
    assert place.ask(header) == [answer]


@given(st.binary(max_size=60))
def test_any_header_says_a_user_or_nothing(header: bytes) -> None:
    said(header)
    said(b"Basic " + header)
    said(b"Basic " + base64.b64encode(header))


def test_a_right_password_is_remembered_for_a_while(place: Place) -> None:
    assert not place.users.knows(ADA)
    for _ in range(1000):
        assert place.ask(ADA) == [None]
    assert len(place.threads.checks) == 1
    assert place.users.knows(ADA)
    place.clock.advance(REMEMBERED)
    assert not place.users.knows(ADA)
    assert place.ask(ADA) == [None]
    assert len(place.threads.checks) == 2


def test_a_wrong_password_is_remembered_for_a_moment(place: Place) -> None:
    for _ in range(1000):
        assert place.ask(says("ada", "x")) == [WRONG]
    assert len(place.threads.checks) == 1
    place.clock.advance(REMEMBERED_WRONG)
    assert place.ask(says("ada", "x")) == [WRONG]
    assert len(place.threads.checks) == 2


def test_all_that_say_the_same_wait_for_one_check(place: Place) -> None:
    place.threads.holds = True
    asked = [place.ask(ADA, f"10.0.0.{number}") for number in range(200)]
    assert not any(asked)
    place.threads.release()
    assert asked == [[None]] * 200
    assert len(place.threads.checks) == 1


def test_an_address_that_is_wrong_too_often_waits(place: Place) -> None:
    """What is known to be right goes on, and so do others."""
    assert place.ask(ADA) == [None]
    answers = [place.ask(says("ada", str(number)))[0] for number in range(MOST_WRONG + 5)]
    assert answers == [WRONG] * MOST_WRONG + [TOO_OFTEN] * 5
    assert len(place.threads.checks) == MOST_WRONG + 1
    assert place.ask(says("grace", "grace!")) == [TOO_OFTEN]
    assert place.ask(ADA) == [None]
    assert place.ask(says("grace", "grace!"), "10.0.0.2") == [None]
    place.clock.advance(WINDOW)
    assert place.ask(says("ada", "another")) == [WRONG]


def test_right_passwords_do_not_count_against_an_address(place: Place) -> None:
    for _ in range(3 * MOST_WRONG):
        assert place.ask(ADA) == [None]
        place.clock.advance(REMEMBERED)


def test_what_was_right_goes_on_where_others_guess(place: Place) -> None:
    """Nodes that share an address, behind a translator perhaps, do not suffer from the wrong ones among them."""
    assert place.ask(ADA) == [None]
    place.clock.advance(REMEMBERED)
    for number in range(MOST_WRONG):
        place.ask(says("ada", str(number)))
    assert place.ask(says("grace", "grace!")) == [TOO_OFTEN]
    checks = len(place.threads.checks)
    assert place.ask(ADA) == [None]
    assert len(place.threads.checks) == checks + 1
    assert place.ask(says("grace", "grace!")) == [TOO_OFTEN]


def test_checks_that_wait_are_few(place: Place) -> None:
    place.threads.holds = True
    asked = [place.ask(says("ada", str(number)), f"10.0.0.{number}") for number in range(MOST_WAITING + 3)]
    assert asked == [[]] * MOST_WAITING + [[BUSY]] * 3
    place.threads.release()
    assert asked == [[WRONG]] * MOST_WAITING + [[BUSY]] * 3
    assert place.ask(ADA) == [None]


def test_a_user_that_does_not_exist_is_checked_all_the_same(place: Place) -> None:
    """And against the same hash each time, lest the time it takes tell something."""
    for number in range(5):
        assert place.ask(says("nobody", f"ada!{number}")) == [WRONG]
    (checked,) = set(place.threads.checks)
    assert checked in HASHED.values()
    assert place.ask(says("nobody", "ada!")) == place.ask(says("nobody", "grace!")) == [WRONG]


def test_a_changed_file_counts_from_then_on(place: Place) -> None:
    assert place.ask(ADA) == [None]
    assert place.ask(says("grace", "new!")) == [WRONG]
    place.write({"grace": bcrypt.hashpw(b"new!", bcrypt.gensalt(4)).decode()})
    place.look()
    assert place.ask(ADA) == [WRONG]
    assert place.ask(says("grace", "new!")) == [None]


def test_a_file_that_has_not_changed_makes_nobody_wait(place: Place) -> None:
    assert place.ask(ADA) == [None]
    place.look()
    assert place.users.knows(ADA)


@pytest.mark.parametrize("broken", ["ada:secret\n", "", "\xff", None])
def test_a_broken_new_file_changes_nothing_and_is_told_once(place: Place, broken: str | None) -> None:
    assert place.ask(ADA) == [None]
    if broken is None:
        place.path.unlink()
    else:
        place.path.write_text(broken, encoding="latin-1")
    with logged() as lines:
        place.look()
        place.look()
    (line,) = lines
    assert "the users of before stay in force" in line
    assert str(place.path) in line
    assert "secret" not in line
    assert place.ask(ADA) == [None]
    place.write({"grace": HASHED["grace"]})
    place.look()
    assert place.ask(ADA) == [WRONG]


def test_a_check_that_was_under_way_when_the_file_changed_is_not_remembered(place: Place) -> None:
    place.threads.holds = True
    asked = place.ask(ADA)
    place.write({"grace": HASHED["grace"]})
    place.look()
    place.threads.release()
    assert asked
    assert not place.users.knows(ADA)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file"),
        ("", "no user in it"),
        ("ada:x", "line 1"),
        ("x" * (4 * 1024 * 1024 + 1), "larger than"),
    ],
)
def test_a_wrong_file_at_the_start_is_one_line(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "users"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadUsers) as caught:
        ProxyUsers(Secret(f"file:{path}"), Threads().run, Clock().seconds).load()
    message = str(caught.value)
    assert message.startswith(f"proxy_users: file:{path}: ")
    assert problem in message
    assert "\n" not in message


def test_nothing_of_it_shows(place: Place) -> None:
    """Neither hashes nor passwords are in what a log or a traceback could show of it."""
    place.ask(ADA)
    place.ask(says("ada", "wrong-one"))
    shown = repr(place.users) + str(vars(Failure(BadUsers("x"))))
    for text in (*HASHED.values(), "ada!", "wrong-one", ADA.decode()):
        assert text not in shown
