"""The table of registries that need no more than their name."""

from regcachd.connect import Authority
from regcachd.known import KNOWN, blob_probe, realm_hosts
from regcachd.values import realm_authority, registry_name, upstream


def test_every_entry_is_written_as_the_configuration_would_have_it() -> None:
    for name, known in KNOWN.items():
        assert name == known.name == registry_name(name)
        assert known.upstream == upstream(known.upstream)
        assert known.realm is None or realm_authority(known.realm).port == 443
        for host in known.hosts:
            assert Authority.parse(host, 443).host == host


def test_docker_hub_is_known_by_the_names_its_clients_use() -> None:
    """containerd and dockerd say registry-1.docker.io, go-containerregistry says index.docker.io."""
    assert KNOWN["docker.io"].upstream == "https://registry-1.docker.io"
    assert set(KNOWN["docker.io"].hosts) == {"registry-1.docker.io", "index.docker.io"}


def test_only_ecr_public_is_asked_for_blobs_by_get() -> None:
    assert [name for name, known in KNOWN.items() if known.blob_probe == "get"] == ["public.ecr.aws"]


def test_the_probe_goes_by_the_upstream_and_is_head_for_a_stranger() -> None:
    assert blob_probe("https://public.ecr.aws") == "get"
    assert blob_probe("https://registry.site.example") == "head"


def test_the_realm_hosts_go_by_the_upstream() -> None:
    assert realm_hosts("https://registry-1.docker.io") == ("auth.docker.io",)
    assert realm_hosts("https://nvcr.io") == ("authn.nvidia.com",)
    assert realm_hosts("https://mirror.site.example") == ()
