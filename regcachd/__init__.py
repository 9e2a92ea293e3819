"""regcachd: a caching proxy for container registries. The architecture on one screen.

    client --CONNECT--> frontdoor --tunnel--> tunnel ------------------------------------> host
                            | intercept (tls, pki: a certificate for the registry's name)
                            v
                        web.Request --> endpoints --pass through--------> relay --> upstream
                                          |    |                                       |
                                      blobs    manifests  --ask: may this client? --> registry
                                          |    |                                       |
     transport.send_file <- growing <- store, index <- partial <- fill <-- one download of one digest

Requests   `frontdoor` reads the first head (`connect`) and obeys `intercept`. Inside, `web` speaks HTTP
           and `endpoints` dispatches by `routes`. `pages` are the daemon's own.
Data path  `transport` switches to TLS on the socket (`tls_socket`) and sends files: `sending`, from page cache to
           socket, without Twisted's TLS in between; where the kernel makes the TLS records (`kernel_tls`), without
           this process in between. What may wait for a disk is done in threads (`disk`).
Content    `store` is files under their digests, `index` is SQLite beside them; `fill` is one download into a
           `partial`: each `stream` is an answer of its `source`, as many as `parallel` likes and with `patience`, and
           its `writer` does what the disk is for. Its clients, and those of other workers who `follow` it, read a
           `growing` blob; `fills` keeps count. `passing` does without the store when that fails, which is
           `trouble`. `singleflight` makes one of many; `eviction` obeys `lru`.
Care       `care` is what a daemon does once for its store: it holds the `lock`; `recovery` makes the index, a
           `database` that may be lost, agree with the files; `scrub` has all blobs `examine`d again; old `leftovers`
           go. Each is a `chore` along the `shelves`. `admin` answers `cli`, which is regcachctl, at one of `sockets`.
Rights     `access` is the rule, `evidence` what upstream has said; `registry` asks upstream where that is missing.
Upstream   `upstream` keeps verified connections (`http1`), follows redirects, and goes nowhere `guard` forbids.
Processes  `workers` is the parent of several: `listening` sockets, `inheritance` and `logpipe` tie it to each `worker`.
           It takes `care` of the store. With `workers = 1` there is one process and none of that.
System     `notify` tells a service manager what `heartbeat` finds; `journal` is the log for systemd's, `refusal` the
           end of a start that fails. `rootkey` makes the CA of a daemon that may not have the root's key.
Wiring     `tap` reads options and configuration (`documents`, `config`, `schema`, `values`, `units`, `known`);
           `service` makes everything and is, with `workers`, the only importer of the edges.

Pure modules, which know no reactor, clock, file or OpenSSL: reference, routes, challenge, freshness, ranges, access,
connect, extents, intercept, lru, parallel, patience, config and what it is made of. The rest are edges. Times are
seconds, sizes are bytes.
"""

__version__ = "0.1.0"
