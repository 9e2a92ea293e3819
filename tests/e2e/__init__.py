"""Whole pulls: a real registry, real clients and the real daemon, on free ports of the loopback interface.

programs      starts, watches and ends child processes, each in an environment that holds nothing of the
user's certificates  the private authority behind the registry's TLS images        images made on the
spot, as OCI layouts docker_registry   Debian's docker-registry, with its access log as something to count
regcache      the daemon under test clients       skopeo, podman, buildah, curl and a plain HTTP client,
all through the proxy throttle      a slow line between the daemon and the registry
"""
