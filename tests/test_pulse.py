"""A worker's pulse, look by look."""

from regcachd.pulse import AGONY, Pulse, Sign


def looks(pulse: Pulse, count: int, patience: int = 3) -> list[Sign]:
    return [pulse.look(patience) for _ in range(count)]


def test_one_that_beats_lives() -> None:
    pulse = Pulse()
    for _ in range(10):
        pulse.beat(1)
        assert looks(pulse, 3) == [Sign.ALIVE] * 3


def test_silence_is_said_once_and_then_there_is_no_hope() -> None:
    pulse = Pulse()
    pulse.beat(1)
    assert looks(pulse, 4 + AGONY) == [*[Sign.ALIVE] * 3, Sign.HANGS, *[Sign.ALIVE] * (AGONY - 1), Sign.LOST]


def test_one_that_comes_to_itself_lives() -> None:
    pulse = Pulse()
    assert looks(pulse, 4)[-1] is Sign.HANGS
    pulse.beat(2)
    assert looks(pulse, 3) == [Sign.ALIVE] * 3
    assert pulse.edition == 2


def test_one_that_has_never_beaten_serves_by_nothing() -> None:
    assert Pulse().edition is None
