"""How a command ends when it cannot do what it was asked: a few lines on stderr, and an exit code with a meaning.

0    done (whatever the verdict of `inspect`)
1    `audit` found something, `compare --fail-if-worse` found it worse
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
_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # what is left of stdout's errors: click ends a closed pipe


class Failure(click.ClickException):
    """Ends the command.

    Args:
        message: what happened.
        hint: what to do about it.
        details: one line each, such as wrong fields.
        exit_code: as in the table above.
    """

    def __init__(self, message: str, *, hint: str = "", details: tuple[str, ...] = (), exit_code: int) -> None:
        super().__init__(printable(message))
        self.hint, self.details = hint, details
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class and reads it off the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the lines to stderr."""
        click.echo(f"gradinspect: {self.message}", file=file, err=file is None)
        for line in (*self.details, *([self.hint] if self.hint else [])):
            click.echo(f"  {printable(line)}", file=file, err=file is None)


def failure_of(error: Exception, *, about: str = "") -> Failure | None:
    """The failure that an exception of the caller's making becomes; None for a defect of ours.

    Args:
        about: begins the message: the file that is wrong.
    """
    if isinstance(error, ProblemError):
        hint = "" if error.errors else error.problem.hint
        return Failure(f"{about}{error.detail}", hint=hint, details=_fields(error.errors), exit_code=WRONG_CALL)
    if isinstance(error, OSError) and error.errno in _OUT_OF_ROOM:
        return Failure(f"the output cannot be written: {error.strerror}", exit_code=COULD_NOT_TELL)
    if isinstance(error, InspectionError):
        return Failure(f"{error.code}: {error.detail}", hint=error.remedy, exit_code=COULD_NOT_TELL)
    if isinstance(error, ImportError) and error.name in ("torch", "numpy", "safetensors"):
        needs = "inspecting on this machine needs torch: pip install 'gradinspect[engine]', or use --server URL"
        return Failure(needs, exit_code=WRONG_CALL)
    if "gradinspect.client.errors" in sys.modules:
        return _of_client(error)
    return None


def _of_client(error: Exception) -> Failure | None:
    from gradinspect.client import errors

    if isinstance(error, errors.ApiProblem):
        code = WRONG_CALL if error.status < 500 and error.status != 429 else COULD_NOT_TELL
        hint = "" if error.errors else error.hint
        return Failure(f"{error.code}: {error.detail}", hint=hint, details=_fields(error.errors), exit_code=code)
    if isinstance(error, errors.InspectionFailed):
        return Failure(f"{error.code}: {error.detail}", hint=error.remedy, exit_code=COULD_NOT_TELL)
    if isinstance(error, errors.GradinspectError):
        return Failure(str(error), exit_code=COULD_NOT_TELL)
    return None


def _fields(errors: tuple[FieldError, ...]) -> tuple[str, ...]:
    return tuple(f"{error.pointer or '/'}: {error.detail}" for error in errors)
