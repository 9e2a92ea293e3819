"""Registrable domains, from the Public Suffix List: that a.co.uk and b.co.uk have two owners is in no grammar.

The list comes with a library that a system may or may not have: publicsuffixlist from PyPI, whose list is current, or
publicsuffix2, as which Debian ships the list that it keeps current. Without either, nothing is known of
any domain, and realm.py trusts fewer realms: the registry's own host and those below it, and `realm_hosts`.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module


def registrable(host: str) -> str | None:
    """The domain that the owner of `host` has registered, or `host` itself if it is a public suffix.

    None when there is no list. Names are in lower case, in ASCII.
    """
    domain = _lookup()(host)
    if domain is not None and "." not in domain:  # publicsuffix2 of a top-level domain that is not listed
        return ".".join(host.split(".")[-2:])  # the list's own rule: the algorithm's "*" on publicsuffix.org
    return domain


@cache
def _lookup() -> Callable[[str], str | None]:
    """Reads the list, once, when it is needed."""
    try:
        private_suffix = import_module("publicsuffixlist").PublicSuffixList().privatesuffix
        return lambda host: str(private_suffix(host) or host)
    except ImportError:
        pass
    try:
        get_sld = import_module("publicsuffix2").PublicSuffixList().get_sld
        return lambda host: str(get_sld(host) or host)
    except ImportError:
        return lambda host: None
