"""inheritance.py: what a parent sends is what its worker reads."""

from datetime import UTC, datetime
from pathlib import Path

from regcachd.config import Sources
from regcachd.inheritance import Inheritance, Secrets
from regcachd.pki import open_ca

DOCUMENTS = (("a.toml", 'state = "Zustände"\n'), ("conf.d/b.toml", "workers = 2\n[registries.a]"))
OPTIONS = {"listen": ["dual:1"], "store": None, "max_size": "1GiB", "state": None, "registries": ["b"]}


def test_one_line_there_and_back() -> None:
    sent = Inheritance(
        number=2, of=3, sockets=1, reactor="a.module", sources=Sources(DOCUMENTS, OPTIONS), secrets=Secrets()
    )
    line = sent.line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    read = Inheritance.read(line)
    assert read == sent
    assert read.sources.config() == sent.sources.config()
    assert set(read.sources.config().registries) == {"a", "b"}


def test_secrets_are_random_and_shown_nowhere() -> None:
    one, other = Secrets(), Secrets()
    assert len({one.tickets, one.proofs, other.tickets, other.proofs}) == 4
    assert min(map(len, (one.tickets, one.proofs))) == 32
    assert repr(one) == "Secrets()"


def test_the_ca_goes_along(tmp_path: Path) -> None:
    """With all that signs: the worker need not read the files, which may be of another configuration by now."""
    now = datetime.now(UTC)
    ca = open_ca(tmp_path, ["a.example"], now)
    sent = Inheritance(1, of=1, sockets=0, reactor="", sources=Sources(), secrets=Secrets(), ca=ca)
    read = Inheritance.read(sent.line()).ca
    assert read is not None
    assert read.handed_over() == ca.handed_over()
    assert read.mint("a.example", now).chain_pem.count(b"BEGIN") == 2
    assert "PRIVATE" not in repr(sent)


def test_what_waits_for_a_restart_is_as_the_daemon_began() -> None:
    began = Sources((("a.toml", 'listen = ["tcp:1"]\n[store]\npath = "/one"'),))
    now = Sources((("a.toml", 'listen = ["tcp:2"]\n[store]\npath = "/two"\nmax_size = "5GiB"'),))
    sent = Inheritance(1, of=1, sockets=0, reactor="", sources=now, secrets=Secrets(), began=began)
    config = Inheritance.read(sent.line()).config({})
    assert (config.listen, config.store.path) == (("tcp:1",), "/one")
    assert config.store.max_size.resolve(0) == 5 * 1024**3
