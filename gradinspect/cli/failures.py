"""How a command ends when it cannot do its work: a few lines on stderr, and an exit code with a meaning.

0    done (whatever the verdict of `inspect`)
1    `audit` found something, `compare --fail-if-worse` found the head worse
2    the call is wrong: an option, a file, a spec, a request that the service refuses
3    could not tell: the model cannot be measured, or the service does not answer
130  interrupted
"""

from __future__ import annotations

import errno
import sys
from typing import IO, Any

import click

from gradinspect.contracts.problems import FieldError, InspectionError, ProblemError
from gradinspect.report.words.figures import printable

WRONG_CALL, COULD_NOT_TELL = 2, 3
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # click itself handles a closed pipe


class Failure(click.ClickException):
    """The end of a command, printed as `gradinspect: message` with indented lines below it.

    Args:
        message: what happened.
        hint: what to do about it.
        details: one line each, such as wrong fields.
        exit_code: as in the table above.
    """

    def __init__(self, message: str, *, hint: str = "", details: tuple[str, ...] = (), exit_code: int) -> None:
        super().__init__(printable(message))
        self.hint, self.details = hint, details
        self.exit_code = exit_code  # type: ignore[misc]  # a class attribute in click, read from the instance

    def show(self, file: IO[Any] | None = None) -> None:  # Any: bytes or text
        """Write the lines to stderr."""
        click.echo(f"gradinspect: {self.message}", file=file, err=file is None)
        for line in (*self.details, *([self.hint] if self.hint else [])):
            click.echo(f"  {printable(line)}", file=file, err=file is None)


def failure_of(error: Exception, *, about: str = "") -> Failure | None:
    """Translate a caller's mistake or an outside failure into a `Failure`; return None for a defect of gradinspect.

    Args:
        error: the exception.
        about: begins the message: the file that is wrong.
    """
    if isinstance(error, click.UsageError):
        return _usage_failure(error)
    if isinstance(error, ProblemError):
        hint = "" if error.errors else error.problem.hint
        return Failure(f"{about}{error.detail}", hint=hint, details=_fields(error.errors), exit_code=WRONG_CALL)
    if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS:
        return Failure(f"the output cannot be written: {error.strerror}", exit_code=COULD_NOT_TELL)
    if isinstance(error, InspectionError):
        return Failure(f"{error.code}: {error.detail}", hint=error.remedy, exit_code=COULD_NOT_TELL)
    if isinstance(error, ImportError) and error.name in ("torch", "numpy", "safetensors"):
        message = "inspecting on this machine needs torch: pip install 'gradinspect[engine]', or use --server URL"
        return Failure(message, exit_code=WRONG_CALL)
    if "gradinspect.client.errors" in sys.modules:
        return _client_failure(error)
    return None


def _usage_failure(error: click.UsageError) -> Failure:
    """Put a message of click's into the form of all others."""
    message = error.format_message().rstrip(".")
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        option = error.param_hint or (error.param.get_error_hint(error.ctx) if error.param is not None else "")
        message = f"{str(option).strip(chr(39))}: {error.message.rstrip('.')}"
    elif message[:2].istitle():
        message = message[:1].lower() + message[1:]
    hint = f"see {error.ctx.command_path} --help" if error.ctx is not None else ""
    return Failure(message, hint=hint, exit_code=WRONG_CALL)


def _client_failure(error: Exception) -> Failure | None:
    from gradinspect.client import errors

    if isinstance(error, errors.ApiProblem):
        code = WRONG_CALL if error.status < 500 and error.status != 429 else COULD_NOT_TELL
        hint = "" if error.errors else _hint(error.code, error.hint)
        return Failure(f"{error.code}: {error.detail}", hint=hint, details=_fields(error.errors), exit_code=code)
    if isinstance(error, errors.InspectionFailed):
        return Failure(f"{error.code}: {error.detail}", hint=error.remedy, exit_code=COULD_NOT_TELL)
    if isinstance(error, errors.GradinspectError):
        return Failure(str(error), exit_code=COULD_NOT_TELL)
    return None


def _hint(code: str, hint: str) -> str:
    """Return what to do on the command line, where that differs from what a program does."""
    if code == "unauthenticated":
        return "give --key, or set GRADINSPECT_KEY; the operator makes keys with `gradinspect keys create`"
    return hint


def _fields(errors: tuple[FieldError, ...]) -> tuple[str, ...]:
    return tuple(f"{error.pointer or '/'}: {error.detail}" for error in errors)
