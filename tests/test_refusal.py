"""The end of a daemon that cannot start."""

import pytest
from twisted.python.usage import UsageError

from regcachd.certificates import PkiError
from regcachd.refusal import refusal


@pytest.mark.parametrize(
    ("error", "status"),
    [(UsageError("a.toml: listen = 5: no"), 78), (PkiError("the disk is full"), 1)],
    ids=["what must be mended", "what may pass"],
)
def test_the_reason_is_one_line_and_the_status_says_whether_to_try_again(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    end = refusal(error)
    assert end.code == status
    assert capsys.readouterr().err == f"regcachd does not start: {error}\n"
