"""aws.py: which registry a host is, and how long its password is good for."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from regcachd.aws import TWELVE_HOURS, Place, find_place, life, read_answer
from regcachd.interfaces import AuthFailed
from regcachd.tokens import Login

ECR = Place("ecr", "eu-central-1", account="123456789012")


@pytest.mark.parametrize(
    ("host", "region", "place"),
    [
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", None, ECR),
        (
            "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
            None,
            Place("ecr", "cn-north-1", account="123456789012"),
        ),
        ("123456789012.dkr-ecr.eu-central-1.on.aws", None, ECR),
        (
            "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
            None,
            Place("ecr", "us-gov-west-1", True, "123456789012"),
        ),
        ("public.ecr.aws", None, Place("ecr-public", "us-east-1")),
        ("ecr.lab.example", "eu-west-1", Place("ecr", "eu-west-1")),
        ("ecr.lab.example", None, None),
        ("12345.dkr.ecr.eu-central-1.amazonaws.com", None, None),
        ("quay.io", None, None),
    ],
)
def test_a_host_tells_region_and_account(host: str, region: str | None, place: Place | None) -> None:
    assert find_place(host, region) == place


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATE = "Sun, 01 Mar 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("end", "date", "seconds"),
    [
        (NOW + timedelta(hours=12), DATE, 43200.0),
        (NOW + timedelta(hours=1), DATE, 3600.0),
        (NOW - timedelta(hours=1), DATE, TWELVE_HOURS),
        (NOW + timedelta(days=400), DATE, TWELVE_HOURS),
        (NOW + timedelta(hours=1), "", TWELVE_HOURS),
        (NOW + timedelta(hours=1), "yesterday", TWELVE_HOURS),
        (datetime(2026, 3, 1, 13), DATE, TWELVE_HOURS),
        ("2026-03-01", DATE, TWELVE_HOURS),
        (None, DATE, TWELVE_HOURS),
    ],
)
def test_a_passwords_life_is_told_by_the_clock_that_made_it(end: object, date: str, seconds: float) -> None:
    assert life(end, date) == seconds


TOKEN = b64encode(b"AWS:pass:word").decode()


@pytest.mark.parametrize("data", [{"authorizationToken": TOKEN}, [{"authorizationToken": TOKEN}]])
def test_the_password_in_an_answer(data: Any) -> None:
    lease = read_answer(ECR, {"authorizationData": data})
    assert lease.value == Login("AWS", "pass:word")
    assert lease.life == TWELVE_HOURS


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"authorizationToken": "!"}, {"authorizationToken": b64encode(b"hunter2").decode()}],
)
def test_an_answer_without_a_password(data: Any) -> None:
    with pytest.raises(AuthFailed, match="holds no password") as caught:
        read_answer(ECR, {"authorizationData": data})
    assert "hunter2" not in str(caught.value)


def test_a_place_is_shown_by_what_an_operator_knows_of_it() -> None:
    assert str(ECR) == "ecr in eu-central-1 of account 123456789012"
    assert str(Place("ecr-public", "us-east-1")) == "ecr-public in us-east-1"
