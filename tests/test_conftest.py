"""The safety net of all other tests holds: bad tests do fail, good ones do not."""

from pathlib import Path

import pytest

pytest_plugins = "pytester"

CONFTEST = Path(__file__).with_name("conftest.py").read_text() + "\nGRACE = 0.1\n"

GOOD = """
    import pytest
    from hypothesis import given, strategies
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred, fail
    from twisted.internet.protocol import Factory
    from twisted.internet.task import deferLater
    from twisted.internet.threads import deferToThread
    from twisted.logger import Logger
    from twisted.python import log

    def test_plain():
        pass

    def test_flushes(flush_errors):
        log.err(ValueError("expected"))
        assert [f.type for f in flush_errors(ValueError)] == [ValueError]

    def test_flushes_a_dropped_deferred(flush_errors):
        fail(KeyError("dropped"))
        assert len(flush_errors()) == 1

    async def test_waits():
        assert await deferLater(reactor, 0, lambda: 7) == 7

    async def test_uses_threads():
        assert await deferToThread(lambda: 7) == 7

    async def test_closes_its_port():
        port = reactor.listenTCP(0, Factory())
        await port.stopListening()

    @given(number=strategies.integers())
    def test_many_examples(number):
        assert isinstance(number, int)

    class TestInAClass:
        async def test_method(self):
            await deferLater(reactor, 0)

    @pytest.fixture
    def port():
        port = reactor.listenTCP(0, Factory())
        yield port
        port.stopListening()

    def test_fixture_that_cleans_up(port):
        assert port.getHost().port
"""

BAD = """
    from twisted.internet import reactor
    from twisted.internet.defer import fail
    from twisted.internet.protocol import Factory
    from twisted.internet.task import deferLater
    from twisted.logger import Logger
    from twisted.python import log

    def test_legacy_error():
        log.err(ValueError("first-marker"))

    async def test_logger_failure():
        try:
            raise ValueError("second-marker")
        except ValueError:
            Logger().failure("it broke")

    def test_dropped_deferred():
        fail(ValueError("third-marker"))

    def test_dropped_deferred_in_a_cycle():
        deferred = fail(ValueError("fourth-marker"))
        deferred.me = deferred

    def test_flushes_the_wrong_type(flush_errors):
        log.err(ValueError("fifth-marker"))
        flush_errors(KeyError)

    def test_delayed_call():
        reactor.callLater(3600, print)

    async def test_delayed_call_async():
        await deferLater(reactor, 0)
        reactor.callLater(3600, print)

    async def test_open_port():
        reactor.listenTCP(0, Factory())

    def test_after_the_bad_ones_is_clean():
        assert reactor.getDelayedCalls() == []
"""

FAILING = """
    from twisted.internet import reactor
    from twisted.internet.task import deferLater
    from hypothesis import given, strategies

    async def test_fails_after_a_wait():
        await deferLater(reactor, 0)
        assert 1 == 2

    @given(number=strategies.integers())
    async def test_async_examples(number):
        await deferLater(reactor, 0)
        assert number < 10
"""


def run(pytester: pytest.Pytester, code: str) -> pytest.RunResult:
    """Run a test file under this project's conftest, in a process of its own."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(code)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error")


def test_tests_that_clean_up_pass(pytester: pytest.Pytester) -> None:
    """Flushed errors, finished waits, closed ports and idle threads are no reason to fail."""
    run(pytester, GOOD).assert_outcomes(passed=9)


def test_tests_that_leave_something_fail(pytester: pytest.Pytester) -> None:
    """An error in the log, a delayed call and an open port each fail the test that left them, only that."""
    result = run(pytester, BAD)
    result.assert_outcomes(passed=9, errors=8)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    output = result.stdout.str()
    for word in ("first", "second", "third", "fourth", "fifth"):
        assert f"{word}-marker" in output
    assert output.count("dirty reactor, left over: <DelayedCall") == 2
    assert output.count("dirty reactor, left over: <<class 'twisted.internet.tcp.Port'>") == 1
    assert "ERROR at teardown of test_after" not in output


def test_async_tests_really_run(pytester: pytest.Pytester) -> None:
    """An undecorated `async def` test is awaited, alone and under hypothesis: its assertion can fail."""
    result = run(pytester, FAILING)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*assert 1 == 2*", "*number=10,*"])
