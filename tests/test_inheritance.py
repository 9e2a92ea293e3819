"""inheritance.py: what a parent sends is what its worker reads."""

from regcachd.config import Sources
from regcachd.inheritance import Inheritance, Secrets

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
