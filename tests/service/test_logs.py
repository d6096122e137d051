"""What is written to the log of an exception, in both formats."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from service.logs import LogFormat, configure_logs

PASSWORD = "S3cretPw99"


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    yield
    configure_logs(level="WARNING")


def log_of_failure(log_format: LogFormat, capsys: pytest.CaptureFixture[str], *, depth: int = 40) -> str:
    """Log an exception that was raised where a local variable holds a password; return what was written."""

    def fail(left: int, password: str) -> None:
        if left:
            fail(left - 1, password)
        try:
            raise ValueError("the first")
        except ValueError as error:
            raise RuntimeError("x" * 20_000) from error

    configure_logs(log_format=log_format)
    structlog.reset_defaults()
    configure_logs(log_format=log_format)
    try:
        fail(depth, PASSWORD)
    except RuntimeError as error:
        structlog.get_logger("test").error("it failed", exc_info=error)
    return capsys.readouterr().err


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_local_variables_and_has_a_bounded_length(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    written = log_of_failure(log_format, capsys)
    assert "it failed" in written
    assert "Traceback" in written
    assert "RuntimeError" in written
    assert PASSWORD not in written
    assert len(written) <= 4096


def test_the_json_format_has_the_traceback_as_one_text(capsys: pytest.CaptureFixture[str]) -> None:
    line = json.loads(log_of_failure("json", capsys, depth=0))
    assert line["event"] == "it failed"
    assert line["exception"].startswith("Traceback (most recent call last)")
    assert "exc_info" not in line


def test_exc_info_true_means_the_exception_that_is_handled(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    configure_logs(log_format="console")
    try:
        raise KeyError("handled")
    except KeyError:
        structlog.get_logger("test").exception("caught")
    assert "KeyError: 'handled'" in capsys.readouterr().err
