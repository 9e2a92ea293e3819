"""The transport's own surroundings, and a look at what the kernel has taken."""

import os
from pathlib import Path

import pytest

from regcachd import kernel_tls
from tests.direct import identity, make_file, place
from tests.wire import Identity

__all__ = ["identity", "make_file", "place"]

STATISTICS = Path("/proc/net/tls_stat")


def taken() -> int:
    """Connections whose sending this kernel has taken over so far."""
    counts = dict(line.split() for line in STATISTICS.read_text().splitlines())
    return int(counts["TlsTxSw"]) + int(counts["TlsTxDevice"])


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Does kernel TLS work here? Where it has to, it fails the tests if it does not."""
    return kernel_tls.works(Identity.make(tmp_path_factory.mktemp("identity")).server)


@pytest.fixture(autouse=True)
def _needs_the_kernel(kernel: bool) -> None:
    if not kernel:
        if os.environ.get("REGCACHD_REQUIRE_KTLS"):
            pytest.fail("the kernel takes over no connection")
        pytest.skip("this kernel encrypts nothing: make test-ktls boots one that does")
