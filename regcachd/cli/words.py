"""Sizes, shares and times as people read them: pure functions to plain text."""

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_TIMES = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def size(count: int) -> str:
    """Bytes with three digits or so.

    >>> size(999), size(1536), size(10 * 2**30)
    ('999 B', '1.5 KiB', '10 GiB')
    """
    if count < 1024:
        return f"{count} B"
    number = float(count)
    for unit in _UNITS:
        number /= 1024
        if number < 999.5 or unit == _UNITS[-1]:
            break
    return f"{number:.0f} {unit}" if number >= 99.5 else f"{number:.3g} {unit}"


def share(part: int, whole: int) -> str:
    """A percentage; nothing is a whole of nothing.

    >>> share(1, 3), share(0, 0)
    ('33 %', '100 %')
    """
    return f"{part * 100 // whole if whole else 100} %"


def ago(seconds: float) -> str:
    """How long something is past, in its largest unit.

    >>> ago(0.2), ago(61), ago(200000)
    ('just now', '1 minute ago', '2 days ago')
    """
    for length, unit in _TIMES:
        number = int(seconds // length)
        if number > 0:
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def counted(number: int, one: str) -> str:
    """A number and its noun.

    >>> counted(1, "blob"), counted(12000, "blob")
    ('1 blob', '12,000 blobs')
    """
    return f"{number:,} {one}{'' if number == 1 else 's'}"
