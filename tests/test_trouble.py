"""What is said of a store that fails: once a minute, and when it is over."""

from twisted.internet.task import Clock

from regcachd.trouble import INTERVAL, Trouble
from tests.through import logged


def test_it_is_said_once_a_minute_however_often_it_happens() -> None:
    clock = Clock()
    trouble = Trouble(clock.seconds)
    with logged() as lines:
        for _ in range(100):
            trouble.report(OSError(28, "No space left on device"))
            clock.advance(INTERVAL / 99)
        assert len(lines) == 2
        assert "No space left on device" in lines[0]
        assert "straight from upstream" in lines[0]


def test_the_latest_error_is_what_the_health_page_shows() -> None:
    trouble = Trouble(Clock().seconds)
    assert trouble.what is None
    with logged():
        trouble.report(OSError(28, "No space left on device"))
        trouble.report(OSError(5, "Input/output error"))
    assert trouble.what == "[Errno 5] Input/output error"
    trouble.over()
    assert trouble.what is None


def test_after_it_was_over_new_trouble_is_said_at_once() -> None:
    trouble = Trouble(Clock().seconds)
    with logged() as lines:
        trouble.report(OSError(5, "one"))
        trouble.over()
        trouble.over()
        trouble.report(OSError(5, "two"))
    assert ["one" in lines[0], "two" in lines[1]] == [True, True]
    assert len(lines) == 2
