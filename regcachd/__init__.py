"""regcachd: a caching proxy for container registries. The architecture on one screen.

    client --CONNECT--> frontdoor --tunnel--> tunnel ------------------------------------> host
                            | intercept (tls, pki: a certificate for the registry's name)
                            v
                        web.Request --> endpoints --pass through--------> relay --> upstream
                                          |    |                                       |
                                      blobs    manifests  --ask: may this client? --> registry
                                          |    |                                       |
     transport.send_file <- delivery <- growing <- store, index <- partial <- fill <-- one download of one digest

Requests   `frontdoor` reads the first head (`connect`) and obeys `intercept`; each `handshake` makes it TLS. Inside,
           `web` speaks HTTP (`channel`: one connection), `endpoints` dispatches by `routes`. `pages` are the daemon's
           own. Where users must say who they are, `admission` knows, from a file of `htpasswd`.
Mirrors    Whom a request is for, each says itself: `reception` finds its `destination` by `addressing`, which knows the
           words of a `mirror`. An answer's `web_links` lead back here. `mirror_door` is where they come over TLS, to
           one of the machine's `names`.
Writing    `push` passes on what changes a registry; its body is an `upload`, at the pace of the slower side.
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
Tags       `tags` serves what they name: `tag_rules` and `freshness` say how long upstream's word counts, `tag_lookups`
           ask it once for all, the `tag_table` keeps it, the `governor` knows upstream's limits, of which all its
           answers are heard, and other workers told, by `restraint`. `manifests` come from the `manifest_store`, or
           their `manifest_source`; `referrers` are listed as tags are.
Rights     `access` is the rule, `evidence` what upstream has said; `registry` asks upstream where that is missing, in
           the name of a `requester`. A `silence` is no answer to one of these. `delivery` sends what may be had.
Storms     `pings` and `token_endpoints` ask once for all who show no credential: the answers are in the `commons`,
           which workers share by the `bulletin`; `sharing` is the rule for tokens. `anonymity` knows these when they
           come back.
Upstream   `upstream` asks, over a `pool` of connections (`http1`, which give each a `response`) to every `netloc`,
           follows redirects, and has a `breaker` for each host. It has connections made by `dial`, straight or by a
           `passage` through the `parent`, and nowhere that `guard` forbids; `trust` says whom TLS may be with.
Credential `session` makes requests on the daemon's own; `authentication` finds the `plugins` (`interfaces`), most of
           which are `answers` to challenges: `realm` says who may be told (`domains`), `tokens` are kept in a
           `wallet`, `fetch` is their web. A `secret` is where the configuration (`kinds`) says; `safekeeping` looks.
Checkup    `checkups` are what regcachctl check-upstream asks for: each `checkup` looks at a registry's `reachability`
           and takes a `sample` of an image (`imagename`). `verdicts` say what answers mean; a `finding` is for people.
Clouds     `leases` are credentials that end, and are replaced in time or when `renewing` hears that they are refused:
           `aws`, `google`, `azure` (by `oauth`). `dockerconfig` is docker's file, `programs` runs what it names.
Processes  `workers` is the parent of several: `listening` sockets, `inheritance` and `logpipe` tie it to each `worker`,
           in which it sees a `child` with a `pulse`. It takes `care` of the store. With `workers = 1` there is one
           process and none of that.
Reloads    an `edition` is all that one configuration makes; each connection is served by that of its time. `reload`
           decides what can change and what waits for a restart, `reloading` brings the next edition about.
System     `notify` tells a service manager what `heartbeat` finds; `journal` is the log for systemd's, `refusal` the
           end of a start that fails. `rootkey` makes the CA of a daemon that may not have the root's key.
Wiring     `tap` reads options and configuration (`documents`, `config`, `schema`, `values`, `units`, `known`), whatever
           `config_error` there is; `preparation` is what comes before serving; `service` and `edition` make
           everything and are, with `workers`, the only importers of the edges.

Pure modules, which know no reactor, clock, file or OpenSSL: reference, routes, challenge, freshness, tag_rules, ranges,
access, connect, addressing, breaker, destination, extents, finding, governor, imagename, intercept, interfaces, lru,
mirror, parallel, parent, patience, pulse, realm, reload, sharing, tokens, verdicts, web_links, config and what it is
made of. The rest are edges. Times are seconds, sizes are bytes.
"""

__version__ = "0.1.0"
