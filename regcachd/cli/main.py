"""regcachctl, the program."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from regcachd import __version__
from regcachd.cli import check_upstream as checking
from regcachd.cli import gen_ca as generating
from regcachd.cli import import_env as importing
from regcachd.cli import scrub as scrubbing
from regcachd.cli import store as storing
from regcachd.cli.client import Document, find

FOUND = 1
"""The exit status when all went well and something was found that somebody should know of."""
INTERRUPTED = 130
STATE = Path("/var/lib/regcachd/ca")
"""Where the CA of an installed daemon is."""

_EPILOG = """\b
Exit status: 0 all is well; 1 something was found (rot, a store in trouble,
a registry that does not work as it should); 2 the command line is wrong;
3 the daemon cannot be reached, or failed.
"""
_as_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON document, for programs.")


@click.group(
    epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
)
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path, readable=False),
    envvar="REGCACHD_SOCKET",
    metavar="PATH",
    help="The daemon's admin socket. Default: that of /etc/regcachd/regcachd.toml, "
    "/run/regcachd/admin.sock, admin.sock in the state directory, or var/state/admin.sock (make run).",
)
@click.version_option(__version__, message="regcachctl %(version)s")
@click.pass_context
def regcachctl(context: click.Context, path: Path | None) -> None:
    """Ask a running regcachd; make its configuration."""
    context.obj = path


@regcachctl.command(epilog=_EPILOG)
@_as_json
@click.pass_obj
def store(path: Path | None, as_json: bool) -> None:
    """Show the store: size, limit, blobs, partials, scrubs."""
    answer = find(path).ask("GET", "/store")
    if as_json:
        _print_json(answer)
    else:
        storing.show(_console(), answer)
    if answer["trouble"]:
        raise SystemExit(FOUND)


@regcachctl.command(epilog=_EPILOG)
@_as_json
@click.option(
    "--wait/--no-wait", default=True, help="Wait for the end, which is the default, or return at once."
)
@click.option("--stop", is_flag=True, help="Let a scrub go on at the configured rate.")
@click.pass_obj
def scrub(path: Path | None, as_json: bool, wait: bool, stop: bool) -> None:
    """Read and check everything stored, at full speed.

    What is rotten is removed, and fetched again on demand. A scrub that is under way at full speed is
    joined; one at the configured rate begins again.
    """
    client = find(path)
    if stop:
        answer = client.ask("DELETE", "/scrub")
        if as_json:
            _print_json(answer)
        return
    began = scrubbing.begin(client)
    if not wait:
        _report(began, as_json, "the scrub has begun; `regcachctl store` shows how far it is")
        return
    try:
        done = scrubbing.follow(client, Console(stderr=True, highlight=False), began)
    except KeyboardInterrupt:
        click.echo("the scrub goes on; `regcachctl scrub --stop` slows it down", err=True)
        raise SystemExit(INTERRUPTED) from None
    if as_json:
        _print_json(done)
    else:
        scrubbing.show(_console(), done)
    if done["rotten"]:
        raise SystemExit(FOUND)


@regcachctl.command(epilog=_EPILOG)
@_as_json
@click.pass_obj
def reload(path: Path | None, as_json: bool) -> None:
    """Have the daemon read its configuration again.

    What has changed holds for new connections; those there are go on as before. A configuration that cannot be used is
    refused, with what to mend, and the old one stays in force. Keys that wait for a restart are named.
    """
    answer = find(path).ask("POST", "/reload")
    if as_json:
        _print_json(answer)
        return
    click.echo(f"changed: {', '.join(answer['changed']) or 'nothing'}")
    if answer["waiting"]:
        click.echo(f"waiting for a restart: {', '.join(answer['waiting'])}")


@regcachctl.command("check-upstream", epilog=_EPILOG)
@_as_json
@click.argument("registry")
@click.argument("image", required=False)
@click.pass_obj
def check_upstream(path: Path | None, as_json: bool, registry: str, image: str | None) -> None:
    """Look at a registry as the daemon reaches it.

    Step by step: name, secret, DNS, connection, TLS, login, and, of an IMAGE, its manifest and the first byte of its
    first layer. REGISTRY is a name of the configuration, or a host that clients ask for it; IMAGE is written as for
    podman or docker: nginx, library/nginx:1.25, quay.io/org/image@sha256:... Two manifests are fetched, which
    Docker Hub counts as pulls; nothing is stored.
    """
    answer = checking.check(find(path), Console(stderr=True, highlight=False), registry, image)
    if as_json:
        _print_json(answer)
    else:
        checking.show(_console(), answer)
    if answer["outcome"] != "ok":
        raise SystemExit(FOUND)


@regcachctl.command("gen-ca")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
def gen_ca(directory: Path) -> None:
    """Make a root of your own for the certificate authority.

    regcachd makes one at its first start, so this is for those who want it before, or the same on several head nodes.
    The DIRECTORY gets root.crt and root.key (mode 0600, without a passphrase); one that has them is left alone.
    """
    click.echo(generating.generate(directory, datetime.now(UTC), STATE), nl=False)


@regcachctl.command("import-env")
@click.argument("source", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the configuration instead of standard output. An existing file is left alone.",
)
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/etc/regcachd/credentials"),
    show_default=True,
    metavar="DIRECTORY",
    help="Where to write passwords, each into a file of mode 0600.",
)
def import_env(source: Path | None, output: Path | None, credentials: Path) -> None:
    """Make a configuration of docker-registry-proxy's variables.

    SOURCE is an env file, a docker-compose.yml, what `docker inspect` prints, a script with the `docker run` command,
    or DeepOps' variables (nginx_docker_cache_..., YAML); "-" is standard input. Without it, the environment is read.
    What has no equivalent is said on standard error.
    """
    credentials = credentials.absolute()
    migrated = importing.import_env(source, sys.stdin.buffer, os.environ, credentials)
    importing.write(migrated, output, credentials)
    importing.tell(migrated, credentials)


def _report(document: Document, as_json: bool, text: str) -> None:
    if as_json:
        _print_json(document)
    else:
        click.echo(text)


def _print_json(document: Document) -> None:
    click.echo(json.dumps(document, indent=2))


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def main() -> None:
    """Run from the command line."""
    regcachctl(prog_name="regcachctl")
