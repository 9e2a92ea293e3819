"""The daemon's own pages: what this is, the CA to trust, and whether it is well."""

from collections.abc import Callable
from html import escape

from attrs import frozen

from . import __version__, setup
from .connect import HeadError
from .farewell import PLAIN
from .pki import CA
from .store import Store
from .trouble import Trouble
from .web import Request

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>regcachd</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}}
pre{{background:#8882;padding:.8rem;overflow-x:auto}}:root{{color-scheme:light dark}}</style></head><body>
<h1>regcachd {version}</h1>
<p>This is a caching proxy for container registries. Nodes pull images through it; each layer is downloaded once
and served from here afterwards. It caches: {registries}.</p>
<h2>Use it</h2>
<p>On each node, as root; docker may be {clients} or all:</p>
<pre>curl {url}/setup/docker | sh</pre>
<p>That trusts <a href="/ca.crt">this certificate authority</a> and points docker here. It says what it does, and
restarts nothing. With <code>| sh -s -- --dry-run</code> it only says it. The SHA-256 fingerprint is<br>
<code>{fingerprint}</code></p>
<p>By hand: trust the certificate authority,</p>
<pre>curl -o /usr/local/share/ca-certificates/regcachd.crt {url}/ca.crt
openssl x509 -in /usr/local/share/ca-certificates/regcachd.crt -outform DER | sha256sum
update-ca-certificates</pre>
<p>give clients the proxy, and restart docker or containerd after that.</p>
<pre>HTTPS_PROXY={url}</pre>
<p>For docker and containerd this belongs into <code>Environment=</code> of a systemd drop-in; podman, skopeo and
buildah read it from the shell's environment.</p>
<p>Or let containerd, docker or podman take it for a mirror, which needs neither: <code>{url}</code> in
<code>hosts.toml</code> and <code>registry-mirrors</code>. docs/mirror.md says how.</p>
<p><a href="/healthz">Health</a></p>
</body></html>
"""


@frozen
class Pages:
    """What is answered to requests that are for this daemon itself."""

    ca: CA
    registries: tuple[str, ...]
    trouble: Trouble
    store: Store
    unreachable: Callable[[], list[str]]
    """Which registries cannot be reached, as far as this process has found out, each in a sentence."""

    async def respond(self, request: Request) -> None:
        """Answer a request that is for nobody else."""
        if request.method == b"CONNECT":
            _text(request, 400, "CONNECT must be the first request of a connection")
        elif request.method not in (b"GET", b"HEAD"):
            request.answer(
                405, [(b"Allow", b"GET, HEAD"), (b"Content-Type", PLAIN)], b"only GET and HEAD here\n"
            )
        elif request.path == b"/":
            self._index(request)
        elif request.path == b"/ca.crt":
            kind = (b"Content-Type", b"application/x-pem-file")
            name = (b"Content-Disposition", b'attachment; filename="regcachd.crt"')
            request.answer(200, [kind, name], self.ca.root_pem)
        elif request.path.startswith(b"/setup/"):
            self._setup(request, request.path.removeprefix(b"/setup/").decode("latin-1"))
        elif request.path == b"/healthz":
            what = self.trouble.what
            if (
                what is None and not self.store.is_writable()
            ):  # another worker may have noticed, or nobody yet
                what = f"the store {self.store.path} is not there, or cannot be written to"
            lines = ["ok" if what is None else f"ok, but nothing is cached: {what}", *self.unreachable()]
            _text(request, 200, "\n".join(lines))
        else:
            _text(request, 404, "no such page; / says what this is")

    def _setup(self, request: Request, name: str) -> None:
        if name == "regcachd-client":
            request.answer(200, [(b"Content-Type", b"text/x-python; charset=utf-8")], setup.tool())
        elif name == "head.json":
            body = setup.facts(self.registries, self.ca.fingerprint)
            request.answer(200, [(b"Content-Type", b"application/json")], body)
        else:
            try:
                script = setup.script(name, request.header("host") or "", self.ca.fingerprint)
            except HeadError as error:
                _text(request, error.status, str(error))
            else:
                kind = (b"Content-Type", b"text/x-shellscript; charset=us-ascii")
                request.answer(200, [kind, (b"X-Content-Type-Options", b"nosniff")], script)

    def _index(self, request: Request) -> None:
        host = request.header("host") or "HEAD-NODE:3128"
        page = _PAGE.format(
            version=__version__,
            registries=escape(", ".join(self.registries)),
            fingerprint=escape(self.ca.fingerprint),
            url=escape(f"http://{host}"),
            clients=", ".join(setup.CLIENTS[1:]),
        )
        policy = (b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'")
        request.answer(200, [(b"Content-Type", b"text/html; charset=utf-8"), policy], page.encode())


def _text(request: Request, status: int, text: str) -> None:
    request.answer(status, [(b"Content-Type", PLAIN)], text.encode() + b"\n")
