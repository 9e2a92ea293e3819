"""Image names are read as docker's command line reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.imagename import ImageName
from regcachd.reference import InvalidReference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "host", "image"),
    [
        ("nginx", None, "docker.io/library/nginx:latest"),
        ("nginx:1.25", None, "docker.io/library/nginx:1.25"),
        ("library/nginx:1.25", None, "docker.io/library/nginx:1.25"),
        ("team/nginx", None, "docker.io/team/nginx:latest"),
        ("docker.io/nginx", "docker.io", "docker.io/library/nginx:latest"),
        ("docker://quay.io/org/img:1", "quay.io", "docker.io/org/img:1"),
        (f"quay.io/org/img@{DIGEST}", "quay.io", f"docker.io/org/img@{DIGEST}"),
        (f"nginx:1.25@{DIGEST}", None, f"docker.io/library/nginx@{DIGEST}"),
        ("registry.site.example:5443/a/b/c:x", "registry.site.example:5443", "docker.io/a/b/c:x"),
        ("localhost/app", "localhost", "docker.io/library/app:latest"),
        ("LOCALHOST:5000/app", "localhost:5000", "docker.io/library/app:latest"),
        ("[::1]:5000/team/app", "[::1]:5000", "docker.io/team/app:latest"),
    ],
)
def test_names(text: str, host: str | None, image: str) -> None:
    name = ImageName.parse(text)
    assert name.host == host
    assert str(name.within("docker.io", has_official=True)) == image


def test_only_docker_hub_has_official_images() -> None:
    assert str(ImageName.parse("nginx").within("quay.io", has_official=False)) == "quay.io/nginx:latest"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        ":1",
        "Nginx",
        "nginx:",
        "nginx:a b",
        "nginx@",
        "nginx@latest",
        f"@{DIGEST}",
        "quay.io/",
        "a//b",
        "nginx@sha256:ab",
        f"nginx@{DIGEST}@{DIGEST}",
        "nginx:1:2",
        "nginx\n",
        "https://quay.io/a/b",
        "x/y/../z",
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidReference):
        ImageName.parse(text)


@given(st.text(max_size=300))
def test_nothing_else_is_raised(text: str) -> None:
    try:
        name = ImageName.parse(text)
    except InvalidReference:
        return
    again = ImageName.parse(str(name.within("quay.io", has_official=False)))
    assert (again.name, again.target) == (name.name, name.target)
