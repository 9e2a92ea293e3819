"""docker-registry-proxy: its variables, what they are where nobody sets them, and what has become of them."""

from collections.abc import Mapping
from types import MappingProxyType

DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "REGISTRIES": "k8s.gcr.io gcr.io quay.io",
        "AUTH_REGISTRIES": "some.authenticated.registry:oneuser:onepassword another.registry:user:password",
        "CACHE_MAX_SIZE": "32g",
        "VERIFY_SSL": "true",
        "ENABLE_MANIFEST_CACHE": "false",
        "MANIFEST_CACHE_PRIMARY_REGEX": "(stable|nightly|production|test)",
        "MANIFEST_CACHE_PRIMARY_TIME": "10m",
        "MANIFEST_CACHE_SECONDARY_REGEX": r"(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+",
        "MANIFEST_CACHE_SECONDARY_TIME": "60d",
        "MANIFEST_CACHE_DEFAULT_TIME": "1h",
        "ALLOW_PUSH": "false",
        "ALLOW_PUSH_WITH_OWN_AUTH": "false",
        "ALLOW_OWN_AUTH": "false",
        "AUTH_REGISTRIES_DELIMITER": " ",
        "AUTH_REGISTRY_DELIMITER": ":",
        "DISABLE_IPV6": "false",
        "PROXY_REQUEST_BUFFERING": "true",
        "PROXY_BUFFERING": "true",
        "FORCE_UPSTREAM_HTTP_1_1": "false",
        "DEBUG": "false",
        "DEBUG_HUB": "false",
        "DEBUG_NGINX": "false",
        "SEND_TIMEOUT": "60s",
        "CLIENT_BODY_TIMEOUT": "60s",
        "CLIENT_HEADER_TIMEOUT": "60s",
        "KEEPALIVE_TIMEOUT": "300s",
        "PROXY_READ_TIMEOUT": "60s",
        "PROXY_CONNECT_TIMEOUT": "60s",
        "PROXY_SEND_TIMEOUT": "60s",
        "PROXY_CONNECT_READ_TIMEOUT": "60s",
        "PROXY_CONNECT_CONNECT_TIMEOUT": "60s",
        "PROXY_CONNECT_SEND_TIMEOUT": "60s",
    }
)
"""What its image sets where nobody else does. The registries behind AUTH_REGISTRIES are made up."""

TIMES = (
    ("PROXY_READ_TIMEOUT", "defaults", "timeout"),
    ("PROXY_CONNECT_TIMEOUT", "limits", "connect_timeout"),
    ("SEND_TIMEOUT", "limits", "send_timeout"),
    ("CLIENT_HEADER_TIMEOUT", "limits", "head_timeout"),
    ("KEEPALIVE_TIMEOUT", "limits", "idle_timeout"),
    ("PROXY_CONNECT_READ_TIMEOUT", "limits", "tunnel_idle"),
)
"""Times with an equivalent: variable, table, key."""

WITHOUT: Mapping[str, str] = MappingProxyType(
    {
        "DISABLE_IPV6": "addresses of both kinds are tried, and the first that answers is used",
        "PROXY_REQUEST_BUFFERING": "pushes are never buffered",
        "PROXY_BUFFERING": "clients have each byte as it comes, and it is cached all the same",
        "FORCE_UPSTREAM_HTTP_1_1": "upstreams are always asked in HTTP/1.1",
        "ALLOW_OWN_AUTH": "a client that brings its own login is always passed on with it",
        "CLIENT_BODY_TIMEOUT": "limits.idle_timeout and limits.head_timeout bound what clients may keep waiting",
        "PROXY_SEND_TIMEOUT": "`timeout` of a registry bounds every silence",
        "PROXY_CONNECT_CONNECT_TIMEOUT": "limits.connect_timeout holds for tunnels, too",
        "PROXY_CONNECT_SEND_TIMEOUT": "limits.tunnel_idle is for both directions",
        "DEBUG": "there is no mitmproxy in between; the log and Cache-Status say what happened",
        "DEBUG_HUB": "there is no mitmproxy in between; the log and Cache-Status say what happened",
        "DEBUG_NGINX": "there is no nginx; the log says what happened",
        "CACHE_DIRECTORY": "what nginx has cached cannot be used; store.path names regcachd's own directory",
        "HTTP_PROXY": "nginx did not use it; if upstreams are behind a proxy, set upstream_proxy in [defaults]",
        "HTTPS_PROXY": "nginx did not use it; if upstreams are behind a proxy, set upstream_proxy in [defaults]",
        "NO_PROXY": "nginx did not use it; beside upstream_proxy, no_proxy says whom to reach without",
    }
)
"""Variables without an equivalent, and why. What begins with SLICE is said below."""

SLICES = "large layers come over several connections while that is faster: `connections`"

TOKEN_HOSTS: Mapping[str, str] = MappingProxyType(
    {"auth.docker.io": "docker.io", "gitlab.com": "registry.gitlab.com", "authn.nvidia.com": "nvcr.io"}
)
"""Hosts that only hand out tokens, with the registries whose credentials they take."""
