"""What every test gets: `async def` tests run on the reactor, and nothing is swept under the carpet.

A test fails, in its teardown, when it leaves behind

- an error in Twisted's log that it did not flush (an exception in a callback, a Deferred nobody looked
  at), or
- a dirty reactor: a delayed call or an open socket that was not there before it.

pytest-twisted alone lets both pass, and the next test pays for them.
"""

import gc
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from hypothesis import HealthCheck, settings
from twisted.internet import reactor as _reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

reactor: Any = _reactor  # Twisted types the global reactor as a bare module

TURNS = 10
"""Reactor turns that a connection closed by the test gets to finish closing."""
GRACE = 5.0
"""Seconds that sockets (never delayed calls) get beyond that, for TLS and the kernel on a busy machine."""
STEP = 0.01
"""Seconds between looks during the grace."""
LONG = 40
"""Characters of a parameter that a test can still be called by."""

# how long anything takes says more of the machine than of the code
settings.register_profile("regcachd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("regcachd")

FlushErrors = Callable[..., list[Failure]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single tests."""
    parser.addoption(
        "--index-rows", type=int, default=200_000, help="blobs in the large index of test_index_scale.py"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Run every `async def` test on the reactor; without a mark pytest-twisted may never start its body."""
    function = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    hypothesis = getattr(function, "hypothesis", None)
    if hypothesis is not None:
        function = hypothesis.inner_test
    if inspect.iscoroutinefunction(function):
        pytest_twisted.ensureDeferred(function)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long texts have no place in a test's name, least of all keys and hashes that are new in each process."""
    return argname if isinstance(val, str | bytes) and len(val) > LONG else None


@pytest.fixture(scope="module", autouse=True)
def _cheap_collections() -> None:
    """Set aside what is there already, so that collecting one test's garbage takes a millisecond or two."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_system_roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test needs the system's roots, and to read them takes OpenSSL 30 ms for each of a daemon's contexts."""
    none = tmp_path_factory.mktemp("roots") / "none.pem"
    none.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(none))
        patch.setenv("SSL_CERT_DIR", str(none.parent))
        yield


@implementer(ILogObserver)
class LoggedErrors:
    """A log observer that keeps the failures it sees."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    def __call__(self, event: LogEvent) -> None:
        """Keep the event's failure, whatever its level: a traceback in the log is a traceback in the log."""
        failure = event.get("log_failure")
        if failure is None and event.get("isError"):  # from twisted.python.log.err
            failure = event.get("failure")
        if failure is not None:
            self.failures.append(failure)

    def flush(self, *types: type[BaseException]) -> list[Failure]:
        """Forget and return the failures of these types; all of them when none is named."""
        gc.collect()  # a Deferred in a reference cycle reports its unhandled error only now
        flushed = [f for f in self.failures if not types or f.check(*types)]
        self.failures = [f for f in self.failures if f not in flushed]
        return flushed


class ReactorState:
    """What the reactor has to do at one moment: its delayed calls and selectables."""

    def __init__(self) -> None:
        self.calls = {id(call): call for call in reactor.getDelayedCalls()}
        internal = reactor._internalReaders  # the waker, and the one for signals
        selectables = [*reactor.getReaders(), *reactor.getWriters()]
        self.selectables = {id(each): each for each in selectables if each not in internal}

    def since(self, earlier: "ReactorState") -> "ReactorState":
        """Only what was not there at the earlier moment."""
        for mine, theirs in (self.calls, earlier.calls), (self.selectables, earlier.selectables):
            for key in theirs:
                mine.pop(key, None)
        return self

    def sweep(self) -> list[str]:
        """Take all of it away, so that the next test starts clean; returns a description of each."""
        found = [*map(repr, self.selectables.values()), *map(str, self.calls.values())]
        for selectable in self.selectables.values():
            if IProcessTransport.providedBy(selectable):
                selectable.signalProcess("KILL")
            reactor.removeReader(selectable)
            reactor.removeWriter(selectable)
            selectable.connectionLost(Failure(ConnectionDone()))
        for call in [*self.calls.values(), *ReactorState().since(self).calls.values()]:
            if call.active():
                call.cancel()
        return found


def _turn(seconds: float) -> None:
    """Let the reactor run for a while."""
    pytest_twisted.blockon(deferLater(reactor, seconds))


def _settle(before: ReactorState) -> ReactorState:
    """Give what the test has closed the time to go away; returns what stays."""
    for _ in range(TURNS):
        _turn(0)
        left = ReactorState().since(before)
        if not left.calls and not left.selectables:
            return left
    waited = 0.0
    while left.selectables and waited < GRACE:
        _turn(STEP)
        waited += STEP
        left = ReactorState().since(before)
    return left


@pytest.fixture(autouse=True)
def _logged_errors() -> Iterator[LoggedErrors]:
    """Fail the test that leaves logged errors or a dirty reactor."""
    before = ReactorState()
    errors = LoggedErrors()
    globalLogPublisher.addObserver(errors)
    yield errors
    problems = [f"dirty reactor, left over: {each}" for each in _settle(before).sweep()]
    failures = errors.flush()
    globalLogPublisher.removeObserver(errors)
    problems += [f"unflushed error in the log:\n{failure.getTraceback()}" for failure in failures]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture
def flush_errors(_logged_errors: LoggedErrors) -> FlushErrors:
    """A function from exception types to the logged failures of these types, which are then accounted for."""
    return _logged_errors.flush
