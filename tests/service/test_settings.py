"""Settings: complete without an environment, precise errors, no secret in any output."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.messages import Limits
from service.settings import PREFIX, Settings, SettingsError

SECRET = "correct-horse"


def read(**variables: str) -> Settings:
    return Settings.from_environment({PREFIX + name: value for name, value in variables.items()})


def test_every_setting_has_a_default() -> None:
    settings = Settings.from_environment({"XDG_DATA_HOME": "/somewhere"})
    assert settings.data_dir == Path("/somewhere/gradinspect")
    assert settings.database_url == "sqlite:////somewhere/gradinspect/gradinspect.db"
    assert settings.store_dir == Path("/somewhere/gradinspect/store")
    assert settings.broker_url is None
    assert settings.limits == Limits()
    assert not settings.needs_keys


def test_every_setting_is_read_from_its_variable_and_validated() -> None:
    settings = read(
        DATA_DIR="/data",
        PORT="9000",
        RETENTION_DAYS="30",
        QUEUES="cpu, gpu",
        LOG_FORMAT="json",
        LOG_LEVEL="DEBUG",
        JOB_MEMORY_BYTES="1024",
        REQUIRE_KEYS="1",
    )
    assert settings.port == 9000
    assert settings.retention_days == 30
    assert settings.queues == settings.worker_queues == ("cpu", "gpu")
    assert (settings.log_format, settings.log_level) == ("json", "debug")
    assert settings.limits.memory_bytes == 1024
    assert settings.require_keys


def test_options_override_the_environment_unless_they_are_none() -> None:
    variables = {"GRADINSPECT_PORT": "9000", "GRADINSPECT_HOST": "::1"}
    settings = Settings.from_environment(variables, port=9001, host=None)
    assert (settings.port, settings.host) == (9001, "::1")
    assert settings.base_url == "http://[::1]:9001"


def test_a_data_dir_from_an_option_moves_every_path_in_it() -> None:
    settings = Settings.from_environment({"GRADINSPECT_DATA_DIR": "/a"}, data_dir=Path("/b"))
    assert settings.database_url == "sqlite:////b/gradinspect.db"
    assert settings.store_dir == Path("/b/store")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PORT", "http", "GRADINSPECT_PORT: Input should be a valid integer"),
        ("PORT", "70000", "GRADINSPECT_PORT: Input should be less than or equal to 65535"),
        ("MAX_ATTEMPTS", "0", "GRADINSPECT_MAX_ATTEMPTS: Input should be greater than 0"),
        ("LEASE_SECONDS", "nan", "GRADINSPECT_LEASE_SECONDS: Input should be a finite number"),
        ("DATABASE_URL", "mysql://host/name", "GRADINSPECT_DATABASE_URL: mysql is not supported; use postgresql://"),
        ("DATABASE_URL", "postgres", "GRADINSPECT_DATABASE_URL: this is no URL; write postgresql://"),
        ("DATABASE_URL", "sqlite://", "GRADINSPECT_DATABASE_URL: several processes share the database"),
        (
            "BROKER_URL",
            "amqp://host",
            "GRADINSPECT_BROKER_URL: only redis://, rediss://, redis+socket:// are supported",
        ),
        ("QUEUES", "tpu", "GRADINSPECT_QUEUES (0): Input should be 'cpu' or 'gpu'"),
        ("WORKER_QUEUES", "gpu", "GRADINSPECT_WORKER_QUEUES names a queue that GRADINSPECT_QUEUES does not"),
        ("HEARTBEAT_SECONDS", "30", "GRADINSPECT_LEASE_SECONDS=60 must hold at least three heartbeats"),
        ("DATABSE_URL", "x", "GRADINSPECT_DATABSE_URL is not a setting; did you mean GRADINSPECT_DATABASE_URL?"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable_and_the_fix(variable: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        read(**{variable: value})
    assert message in str(error.value)


def test_variables_of_other_programs_are_ignored() -> None:
    assert read(SERVER="http://example.org").port == 8080


def test_all_postgresql_urls_mean_the_same_driver() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        url = read(DATABASE_URL=f"{scheme}://user:{SECRET}@host/name").database_url
        assert url == f"postgresql+psycopg://user:{SECRET}@host/name"


def test_passwords_are_not_shown() -> None:
    settings = read(DATABASE_URL=f"postgresql://user:{SECRET}@host/name", BROKER_URL=f"redis://:{SECRET}@host/0")
    for shown in (repr(settings), str(settings), settings.database_name):
        assert SECRET not in shown
    assert settings.database_name == "postgresql+psycopg://user:***@host/name"


def test_passwords_are_not_shown_in_errors() -> None:
    with pytest.raises(SettingsError) as error:
        read(DATABASE_URL=f"mysql://user:{SECRET}@host/name")
    assert SECRET not in str(error.value)
    with pytest.raises(ValidationError) as direct:
        Settings(database_url=f"mysql://user:{SECRET}@host/name")
    assert SECRET not in str(direct.value)


def test_settings_cannot_be_changed() -> None:
    settings = read()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]  # mypy refuses it, too


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_no_keys_unless_they_are_required(host: str) -> None:
    assert not read(HOST=host).needs_keys
    assert read(HOST=host, REQUIRE_KEYS="1").needs_keys


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_any_other_address_needs_keys(host: str) -> None:
    assert Settings.from_environment({}, host=host).needs_keys


def test_a_device_selects_a_queue_that_has_workers() -> None:
    cpu, both = read(), read(QUEUES="cpu,gpu")
    assert cpu.queue_for("auto", is_upload=False) == "cpu"
    assert both.queue_for("cpu", is_upload=False) == "cpu"
    assert both.queue_for("auto", is_upload=False) == both.queue_for("cuda", is_upload=False) == "gpu"
    with pytest.raises(ProblemError) as problem:
        cpu.queue_for("cuda", is_upload=False)
    assert problem.value.errors[0].pointer == "/device"


def test_uploads_reach_the_gpu_only_where_the_operator_allows_it() -> None:
    both = read(QUEUES="cpu,gpu")
    assert both.queue_for("auto", is_upload=True) == "cpu"
    with pytest.raises(ProblemError):
        both.queue_for("cuda", is_upload=True)
    assert read(QUEUES="cpu,gpu", GPU_UPLOADS="true").queue_for("cuda", is_upload=True) == "gpu"
