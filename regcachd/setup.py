"""The pages below /setup/: a shell script for each client, and the tool that it runs.

    curl http://head:3128/setup/docker | sh

The script comes over the same unprotected connection as the CA, so the fingerprint in it protects against mistakes
and not against somebody on the way. Another one, from elsewhere (`sh -s -- --fingerprint sha256:...`), finds a head
that is not the one meant, but cannot protect from another script either: that takes the tool from elsewhere, too.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .connect import Authority, HeadError

CLIENTS = ("docker", "containerd", "podman", "crio", "enroot", "apptainer", "k3s", "buildkit")
"""What the tool knows; "all" is whatever of them a node has."""

_SCRIPT = """\
#!/bin/sh
# Makes this node pull its container images through regcachd at {url}: fetches regcachd-client from there
# and runs `regcachd-client setup{only}`. What is given after `sh -s --` is passed on to that:
#   curl {url}/setup/{client} | sh -s -- --dry-run
set -eu

head='{url}'
fingerprint='{fingerprint}'
checksum='{checksum}'

fetch() {{
    if command -v curl >/dev/null; then
        curl --noproxy '*' --fail --silent --show-error --output "$2" "$1"
    elif command -v wget >/dev/null; then
        wget --no-proxy --quiet --output-document "$2" "$1"
    else
        echo "regcachd: neither curl nor wget is on this node; install one of them" >&2
        return 1
    fi
}}

main() {{
    if ! command -v python3 >/dev/null; then
        echo "regcachd: python3 is not on this node; install it (3.9 or newer), then run this again" >&2
        exit 5
    fi
    directory=$(mktemp -d)
    trap 'rm -rf "$directory"' EXIT
    trap 'exit 130' HUP INT TERM
    tool="$directory/regcachd-client"
    echo "regcachd: fetching $head/setup/regcachd-client"
    fetch "$head/setup/regcachd-client" "$tool" || exit 3
    if ! echo "$checksum  $tool" | sha256sum -c - >/dev/null 2>&1; then
        echo "regcachd: $head/setup/regcachd-client is not what this script is for: fetch the script again" >&2
        exit 3
    fi
    echo "regcachd: running regcachd-client setup --head $head --fingerprint $fingerprint --keep-tool{only} $*"
    python3 -I "$tool" setup --head "$head" --fingerprint "$fingerprint" --keep-tool{only} "$@" || exit $?
}}

{{ main "$@"; }}  # at the end and in braces, so that half a script does nothing, and nothing without what it is told
"""


@cache
def tool() -> bytes:
    """The program regcachd-client."""
    return Path(__file__).with_name("regcachd-client").read_bytes()


def script(client: str, host: str, fingerprint: str) -> bytes:
    """The script for one client, or for "all". `host` is what the request says in Host: it is believed to be how this
    node reaches the head, and nothing passes that means anything to a shell. Raises HeadError.
    """
    authority = Authority.parse(host, 80)
    if client != "all" and client not in CLIENTS:
        raise HeadError(
            f"there is no setup for this client; there is one for {', '.join(CLIENTS)} and all", 404
        )
    text = _SCRIPT.format(
        url=f"http://{authority}",
        client=client,
        only="" if client == "all" else f" --only {client}",
        fingerprint=fingerprint,
        checksum=hashlib.sha256(tool()).hexdigest(),
    )
    return text.encode("ascii")


def facts(registries: Iterable[str], fingerprint: str) -> bytes:
    """What the tool asks of a head, in JSON."""
    return json.dumps({"registries": sorted(registries), "fingerprint": fingerprint}).encode() + b"\n"
