"""Every setting of the service, and the only code that reads the environment.

A setting `job_memory_bytes` is read from `GRADINSPECT_JOB_MEMORY_BYTES`. Each has a default with which the embedded
service works, so an empty environment is complete.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.request.request import Device
from gradinspect.contracts.wire.messages import Limits

PREFIX = "GRADINSPECT_"
Queue = Literal["cpu", "gpu"]
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_DEFAULT_LIMITS = Limits()


class SettingsError(Exception):
    """A setting is wrong; the message names the variable and what to change."""


class Settings(BaseModel):
    """The settings of one process. Frozen; URLs, which may hold passwords, are left out of `repr`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    # Locations
    data_dir: Path = Field(default_factory=lambda: _default_data_dir(os.environ), description="Everything on disk.")
    database_url: str = Field(default="", repr=False, description="Empty: SQLite in data_dir.")
    database_pool_size: Positive = Field(default=10, description="Connections each process keeps open (PostgreSQL).")
    broker_url: str | None = Field(default=None, repr=False, description="Left out: the embedded service starts one.")
    store_dir: Path = Field(default=Path(), description="Artifacts and reports; left out: `store` in data_dir.")

    signing_secret: str | None = Field(
        default=None,
        min_length=32,
        repr=False,
        description="Signs cursors and sessions, the same in all API processes; left out: a file in data_dir.",
    )

    # The HTTP side
    host: str = Field(default="127.0.0.1", description="Address the API binds to.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8080, description="Port the API binds to.")
    public_url: str | None = Field(default=None, description="How callers reach the service, when behind a proxy.")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Host names it answers to besides loopback, `host` and that of `public_url`; * is any."
    )
    require_keys: bool = Field(default=False, description="Ask for API keys on loopback too; elsewhere always.")
    session_hours: Seconds = Field(default=12.0, description="How long a login on the pages lasts.")
    audit_log: str = Field(default="", description="Also write acts as JSON lines: a file, or - for standard output.")
    web_workers: Positive = Field(default=2, description="Processes of the API.")
    web_threads: Positive = Field(default=64, description="Threads in each process of the API.")
    max_long_polls: Positive = Field(
        default=32, description="Waiting requests in each process; further ones are answered at once."
    )
    max_upload_bytes: Positive = Field(default=4 * 2**30, description="Largest artifact.")
    max_concurrent_uploads: Positive = Field(default=16, description="Uploads at once in each process of the API.")
    min_upload_bytes_per_second: Positive = Field(default=16 * 2**10, description="Slower uploads are cut off.")
    max_spec_body_bytes: Positive = Field(default=2**20, description="Every body that is not an upload.")
    max_report_body_bytes: Positive = Field(default=32 * 2**20, description="Largest report that a client pushes.")

    # Rates of one key, and quotas of one tenant
    submissions_per_minute: Positive = Field(default=600, description="Inspections that one key may submit.")
    uploads_per_minute: Positive = Field(default=120, description="Uploads of one key.")
    upload_bytes_per_hour: Positive = Field(default=64 * 2**30, description="Bytes that one key may upload.")
    report_reads_per_minute: Positive = Field(default=3000, description="Reports and rows that one key may read.")
    tenant_rate_factor: Positive = Field(default=4, description="All keys of a tenant together: times the rates above.")
    max_queued: Positive = Field(default=10_000, description="Queued inspections of one tenant; more are answered 429.")
    max_running: Positive | None = Field(
        default=None, description="Inspections of one tenant that run at once; left out: no limit."
    )
    max_stored_bytes: Positive = Field(default=256 * 2**30, description="Bytes of uploads that one tenant may store.")

    # The life of an inspection
    max_attempts: Positive = Field(default=3, description="Workers that may be lost with one inspection.")
    lease_seconds: Seconds = Field(
        default=60.0, description="Without a heartbeat for so long, a worker loses its inspection."
    )
    heartbeat_seconds: Seconds = Field(default=15.0, description="How often a worker extends its lease.")
    retry_seconds: Seconds = Field(default=5.0, description="Backoff after a lost worker, times attempt squared.")
    redispatch_seconds: Seconds = Field(
        default=30.0, description="An unclaimed inspection is published again after this."
    )
    maintain_interval_seconds: Seconds = Field(default=5.0, description="Pause between rounds of the maintainer.")
    idempotency_hours: Seconds = Field(default=24.0, description="How long an Idempotency-Key is remembered.")
    retention_days: Positive | None = Field(
        default=None, description="Days that ended inspections are kept; left out: for ever."
    )

    # What one job may use
    job_wall_seconds: Seconds = Field(default=_DEFAULT_LIMITS.wall_seconds, description="Seconds until it is killed.")
    job_cpu_seconds: Positive = Field(default=_DEFAULT_LIMITS.cpu_seconds, description="Seconds of CPU, all threads.")
    job_memory_bytes: Positive = Field(
        default=_DEFAULT_LIMITS.memory_bytes, description="Address space on top of torch."
    )
    job_result_bytes: Positive = Field(default=_DEFAULT_LIMITS.result_bytes, description="Largest result.")
    job_threads: Annotated[int, Field(ge=1, le=256)] = Field(default=_DEFAULT_LIMITS.threads, description="Of torch.")

    # Workers
    queues: tuple[Queue, ...] = Field(default=("cpu",), min_length=1, description="Queues that have workers.")
    worker_queues: tuple[Queue, ...] = Field(default=(), description="Queues of this worker; left out: all of queues.")
    worker_slots: Positive = Field(default_factory=lambda: _available_cpus(), description="Jobs at once.")
    stop_seconds: Seconds = Field(
        default=5.0, description="On SIGTERM, a worker gives back what still runs after this."
    )
    gpu_uploads: bool = Field(default=False, description="Run uploaded models on the GPU, unconfined.")

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severe line")
    log_format: Literal["console", "json"] = Field(default="console", description="For a person, or for machines")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the `GRADINSPECT_*` variables.

        Args:
            environment: instead of this process's own.
            overrides: settings from the command line, which count more; `None` overrides nothing.

        Raises:
            SettingsError: a variable is misspelt or its value is wrong.
        """
        variables = os.environ if environment is None else environment
        raw = {
            name: variables[PREFIX + name.upper()]
            for name in cls.model_fields
            if variables.get(PREFIX + name.upper(), "") != ""
        }
        _refuse_misspelt(variables, cls.model_fields)
        if "data_dir" not in raw and overrides.get("data_dir") is None:
            raw["data_dir"] = str(_default_data_dir(variables))
        try:
            return cls.model_validate(raw | {name: value for name, value in overrides.items() if value is not None})
        except ValidationError as error:
            raise SettingsError(_message(error)) from None

    @field_validator("queues", "worker_queues", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, raw: Any) -> Any:  # Any: whatever the caller passed, validated field by field afterwards
        if not isinstance(raw, dict):
            return raw
        data_dir = Path(raw.get("data_dir") or _default_data_dir(os.environ)).expanduser().absolute()
        derived = {
            "data_dir": data_dir,
            "database_url": raw.get("database_url") or f"sqlite:///{quote(str(data_dir / 'gradinspect.db'))}",
            "store_dir": raw.get("store_dir") or data_dir / "store",
            "worker_queues": raw.get("worker_queues") or raw.get("queues") or ("cpu",),
        }
        return {**raw, **derived}

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        try:
            url = make_url(value)
        except ArgumentError:
            raise ValueError("this is no URL; write postgresql://user:password@host/name or sqlite:////path") from None
        if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
            return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        if url.drivername in ("sqlite", "sqlite+pysqlite"):
            if url.database in (None, "", ":memory:"):
                raise ValueError("several processes share the database, so it must be a file: sqlite:////path/name.db")
            return value
        raise ValueError(f"{url.drivername} is not supported; use postgresql:// or sqlite:///")

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: str | None) -> str | None:
        schemes = ("redis://", "rediss://", "redis+socket://")
        if value is not None and not value.startswith(schemes):
            raise ValueError(f"only {', '.join(schemes)} are supported")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(
                f"{PREFIX}LEASE_SECONDS={self.lease_seconds:g} must hold at least three heartbeats "
                f"({PREFIX}HEARTBEAT_SECONDS={self.heartbeat_seconds:g}); raise the first or lower the second"
            )
        if not set(self.worker_queues) <= set(self.queues):
            raise ValueError(f"{PREFIX}WORKER_QUEUES names a queue that {PREFIX}QUEUES does not; add it there")
        return self

    def as_environment(self) -> dict[str, str]:
        """Return the variables that give another process these settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {
            PREFIX + name.upper(): ",".join(value) if isinstance(value, list) else str(value)
            for name, value in values.items()
        }

    @property
    def limits(self) -> Limits:
        """Limits of one job, which the child enforces on itself."""
        return Limits(
            wall_seconds=self.job_wall_seconds,
            cpu_seconds=self.job_cpu_seconds,
            memory_bytes=self.job_memory_bytes,
            result_bytes=self.job_result_bytes,
            threads=self.job_threads,
        )

    @property
    def base_url(self) -> str:
        """URL of the service for people."""
        return self.public_url or f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def database_name(self) -> str:
        """The database URL without its password, for logs and pages."""
        return make_url(self.database_url).render_as_string(hide_password=True)

    @property
    def needs_keys(self) -> bool:
        """Whether every caller must have an API key: always, unless only this machine can connect."""
        return self.require_keys or not _is_loopback(self.host)

    def queue_for(self, device: Device, *, is_upload: bool) -> Queue:
        """Return the queue whose workers can serve `device`.

        Raises:
            ProblemError: a GPU is requested and none is offered, or not for uploads.
        """
        if device == "cpu" or (device == "auto" and ("gpu" not in self.queues or (is_upload and not self.gpu_uploads))):
            return "cpu"
        if "gpu" not in self.queues:
            raise _no_device("this service has no GPU workers; use cpu or auto")
        if is_upload and not self.gpu_uploads:
            raise _no_device("uploaded models run on the CPU here; use cpu or auto, or send a spec")
        return "gpu"


def _default_data_dir(variables: Mapping[str, str]) -> Path:
    if home := variables.get("XDG_DATA_HOME"):
        return Path(home) / "gradinspect"
    try:
        return Path.home() / ".local" / "share" / "gradinspect"
    except RuntimeError:
        raise SettingsError(f"this account has no home directory; set {PREFIX}DATA_DIR") from None


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refuse_misspelt(variables: Mapping[str, str], fields: Mapping[str, object]) -> None:
    """Refuse a variable whose name is nearly a setting's; others pass, because the CLI has variables too."""
    names = [PREFIX + name.upper() for name in fields]
    for name in variables:
        if name.startswith(PREFIX) and name not in names:
            close = get_close_matches(name, names, n=1, cutoff=0.85)
            if close:
                raise SettingsError(f"{name} is not a setting; did you mean {close[0]}?")


def _message(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        text = item["msg"].removeprefix("Value error, ")
        path = ".".join(str(part) for part in item["loc"][1:])
        variable = f"{PREFIX}{str(item['loc'][0]).upper()}" if item["loc"] else ""
        lines.append(f"{variable}{f' ({path})' if path else ''}: {text}" if variable else text)
    return "\n".join(lines)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _no_device(detail: str) -> ProblemError:
    return ProblemError("invalid_request", detail, errors=[FieldError(pointer="/device", detail=detail)])
