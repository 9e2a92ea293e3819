"""`regcachctl gen-ca`: a root of one's own, made before there is a daemon, for one head node or for several."""

from datetime import datetime
from pathlib import Path

import click

from regcachd.pki import PkiError, make_authority

_MADE = """\
{directory}/root.crt  what clients are to trust, until {end:%Y-%m-%d}
{directory}/root.key  to be kept secret: who has it can be any site to these clients
fingerprint {fingerprint}

Before regcachd's first start, on each head node, as root:
  install -d -m 0700 {state} && install -m 0600 {directory}/root.key {directory}/root.crt {state}/
Then the daemon makes from it, by itself, a certificate that is good for the configured registries alone. On nodes:
  regcachd-client setup --head http://HEAD:3128 --fingerprint {fingerprint}
"""


def generate(directory: Path, now: datetime, state: Path) -> str:
    """Make it, and say what to do with it. Raises click.ClickException, also where there is one already."""
    try:
        end, fingerprint = make_authority(directory, now)
    except PkiError as error:
        raise click.ClickException(str(error)) from None
    return _MADE.format(directory=directory, end=end, fingerprint=fingerprint, state=state)
