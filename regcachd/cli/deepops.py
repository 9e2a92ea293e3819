"""The variables of DeepOps' role nginx-docker-registry-cache, as those of the container that it starts."""

from collections.abc import Mapping
from typing import Any

from regcachd.cli.containers import text_of
from regcachd.cli.variables import Variables

DEEPOPS = "nginx_docker_cache_"
_DEEPOPS = {
    "registry_string": ("REGISTRIES", "registry.k8s.io quay.io k8s.gcr.io gcr.io nvcr.io"),
    "manifests": ("ENABLE_MANIFEST_CACHE", "false"),
    "manifest_default_time": ("MANIFEST_CACHE_DEFAULT_TIME", "1h"),
}
"""What DeepOps' role hands on: the variable, and the role's default."""
_DEEPOPS_PATHS = {
    "mirror_path": ("/docker_mirror_cache", "/opt/deepops/nginx-docker-cache/mirror"),
    "ca_path": ("/ca", "/opt/deepops/nginx-docker-cache/ca"),
}
_DEEPOPS_WITHOUT = {
    "image": "there is no container",
    "name": "there is no container; the service is called regcachd",
    "hostgroup": "which hosts it runs on is up to the playbook that installs it",
    "proxy_url": "clients keep it, if regcachd runs on the same host",
    "dockerd_clients": "clients are set up as before: HTTPS_PROXY, and trust in the CA",
}


def of_deepops(document: Mapping[str, Any]) -> Variables:
    """The variables of DeepOps' role nginx-docker-registry-cache, and its defaults."""
    given = {str(n).removeprefix(DEEPOPS): v for n, v in document.items() if str(n).startswith(DEEPOPS)}
    values = {name: text_of(given.get(key, default)) for key, (name, default) in _DEEPOPS.items()}
    mounts = {where: text_of(given.get(key, default)) for key, (where, default) in _DEEPOPS_PATHS.items()}
    notes = []
    for key in given.keys() - _DEEPOPS.keys() - _DEEPOPS_PATHS.keys():
        why = _DEEPOPS_WITHOUT.get(key)
        if key == "ca":
            why = "the CA of your own: decrypt its key if need be, and name both files in [ca]"
        elif why is None:
            why = (
                "it is about clients" if key.startswith(("docker_config", "ca_client")) else "not known here"
            )
        notes.append(f"{DEEPOPS}{key} has no equivalent: {why}")
    return Variables(values, mounts, notes=tuple(sorted(notes)))
