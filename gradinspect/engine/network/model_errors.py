"""Exceptions of a caller's model or loss, as errors with its own words, their type and the line that raised them.

The words are untrusted: they are cut to a length, and characters that control a terminal are replaced.
"""

from __future__ import annotations

import dis
import linecache
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.exported.interpreter import place_of

MOST_WORDS, MOST_SOURCE = 500, 120  # characters of a message and of a source line that an error repeats
_MOST_READ = 65_536  # characters of a message that are looked at
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_OURS = f"{Path(__file__).parents[2]}{os.sep}"
_RAISE = dis.opmap["RAISE_VARARGS"]
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

# An operation that fails with these words was given a shape, a size, a number of axes or a dtype that it does not take.
_MISFIT = re.compile(
    r"shape|size|dimension|\b\d+D\b|-dim\b|dtype|scalar type|same type|but (got|found)|must match|channels"
    r"|index out of range in self|not implemented for '|expected at most|is missing value for argument",
    re.IGNORECASE,
)
_WRONG_ARGUMENTS = re.compile(r"positional argument|unexpected keyword")
_ANOMALY_HINT = " Hint: enable anomaly detection"  # it names the wrong operation as often as the right one
_SCRIPT_LINE = re.compile(r'^ *File "(?P<file>[^"\n]*)", line (?P<line>\d+), in (?P<function>[^\n]*)$', re.MULTILINE)
_SCRIPT_HERE = "<--- HERE"
# The source lines behind the last mark are indented; an `assert` is a RuntimeError of an AssertionError.
_SCRIPT_TYPE = re.compile(r"^(?:RuntimeError: (?=\w+Error: ))?(?:builtins\.)?(?P<kind>[A-Za-z_][\w.]*): ", re.MULTILINE)
_IN_TORCH = re.compile(r"(^|/)(site-packages|dist-packages|code/__torch__)/torch/")


@dataclass(frozen=True)
class Raised:
    """What an exception says.

    Attributes:
        kind: the name of its class.
        words: its message, in one line.
        place: the line that raised it, in brackets and with a space before it; empty where that is not known.
        is_misfit: an operation failed over shapes or dtypes.
    """

    kind: str
    words: str
    place: str
    is_misfit: bool

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}{self.place}" if self.words else f"{self.kind}{self.place}"


@contextmanager
def model_errors(
    what: str, takes: Callable[[], str] | None = None, *, cause: Callable[[], Exception | None] = lambda: None
) -> Iterator[None]:
    """Turn an exception into `data_mismatch` where data do not fit the operations, else into `model_error`.

    Args:
        what: runs inside the block: "the model", "the loss".
        takes: describes the data that it was given; None where no data can be at fault.
        cause: returns the exception behind a TorchScript error that lost its message.

    Raises:
        InspectionError: `data_mismatch` or `model_error`. A failed allocation and an InspectionError pass through.
    """
    try:
        yield
    except InspectionError:
        raise
    except Exception as error:
        behind = cause()
        known = behind if behind is not None and _is_script_error(error) else error
        if out_of_memory(known):
            raise known from None
        if _is_ours(known):
            raise
        raised = read_error(error, known)
        if takes is not None and raised.is_misfit:
            raise InspectionError("data_mismatch", f"{what} does not take {takes()}: {raised}") from known
        raise InspectionError("model_error", f"{what} raised {raised}") from known


def read_error(error: Exception, known: Exception | None = None) -> Raised:
    """Read an exception's type, words and line.

    Args:
        error: as it arrived.
        known: the exception behind it, where TorchScript dropped the message.
    """
    known = error if known is None else known
    kind, words = type(known).__name__, _message(known)
    if _is_script_error(error):
        text = _message(error)
        if known is error:
            kind, words = _script_words(text, kind)
        # Only `raise` and `assert` of a script give a torch.jit.Error; its operations raise a RuntimeError.
        is_misfit = not isinstance(error, torch.jit.Error) and _MISFIT.search(words) is not None
        return Raised(kind, clean(words), _script_place(text), is_misfit)
    return Raised(kind, clean(words), _place(error), _is_misfit(error, words))


def is_models(error: Exception) -> bool:
    """Check whether a model raised an exception: torch called the innermost line, which is not of this library."""
    if isinstance(error, torch.jit.Error):
        return True
    paths = [path for path, _, _ in _frames(error)]
    outside = [path for path in paths if not path.startswith(_TORCH)]
    return len(outside) < len(paths) and not outside[-1].startswith(_OURS)


def is_torch(path: str) -> bool:
    """Check whether a source file is torch's."""
    return path.startswith(_TORCH)


def clean(text: str, most: int = MOST_WORDS) -> str:
    r"""Put an untrusted message into one line of bounded length without control characters.

    >>> clean("a\n  b\x1b[2J")
    'a b�[2J'
    """
    line = " ".join(text[:_MOST_READ].split())[: most + 1]
    if not (line.isascii() and line.isprintable()):
        line = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNPRINTABLE else c for c in line)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def describe_tensors(tensors: Iterable[torch.Tensor]) -> str:
    """Write dtypes and shapes: float32[6, 8], int64[6]."""
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in tensors)


def _is_ours(error: Exception) -> bool:
    """Check for a defect of this library, such as one in a hook; torch's own errors have other types."""
    frames = _statements(error)
    if not frames or not frames[-1][0].startswith(_OURS):
        return False
    return frames[-1][1] or isinstance(error, KeyError | AttributeError | NameError | ArithmeticError)


def _message(error: BaseException) -> str:
    try:
        return str(error)[:_MOST_READ].partition(_ANOMALY_HINT)[0]
    except Exception:  # noqa: BLE001  # the class of the exception is the model's, too
        return ""


def _is_script_error(error: Exception) -> bool:
    return isinstance(error, torch.jit.Error) or (
        isinstance(error, RuntimeError) and "Traceback of TorchScript" in _message(error)
    )


def _is_misfit(error: Exception, words: str) -> bool:
    """Check that data do not fit: torch says so, and not a `raise` or an `assert` of the model."""
    if not isinstance(error, RuntimeError | IndexError | TypeError | ValueError | AssertionError):
        return False
    outside = [(path, raises) for path, raises in _statements(error) if not path.startswith(_OURS)]
    if outside and outside[-1][1] and not outside[-1][0].startswith(_TORCH):
        return False
    if _WRONG_ARGUMENTS.search(words):
        return all(path.startswith(_TORCH) for path, _ in outside)  # of the model itself, not of a part in it
    return _MISFIT.search(words) is not None


def _statements(error: BaseException) -> list[tuple[str, bool]]:
    """Return the file of each frame, and whether the frame ended in a `raise` or a failed `assert`."""
    return [(path, step.tb_frame.f_code.co_code[step.tb_lasti] == _RAISE) for path, _, step in _frames(error)]


def _frames(error: BaseException) -> list[tuple[str, int, TracebackType]]:
    """Return file, line and traceback of each frame, innermost last."""
    frames, step = [], error.__traceback__
    while step is not None:
        frames.append((step.tb_frame.f_code.co_filename, step.tb_lineno, step))
        step = step.tb_next
    return frames


def _place(error: BaseException) -> str:
    """Describe the innermost line that is neither torch's nor ours; of an exported program, its author's."""
    for path, line, step in reversed(_frames(error)):
        exported = place_of(step.tb_frame)
        if exported is not None and exported.file is not None:
            return _described(exported.file, exported.line, exported.function, exported.code)
        if not path.startswith((_TORCH, _OURS)):
            return _described(path, line, step.tb_frame.f_code.co_name, linecache.getline(path, line))
    return ""


def _script_words(text: str, kind: str) -> tuple[str, str]:
    """Split the end of a TorchScript error, behind its tracebacks, into type and message."""
    rest = text.rpartition(_SCRIPT_HERE)[2]
    named = _SCRIPT_TYPE.search(rest)
    return (named["kind"], rest[named.end() :]) if named is not None else (kind, rest)


def _script_place(text: str) -> str:
    """Describe the innermost line of a TorchScript traceback outside torch; the original code is listed last."""
    found = list(_SCRIPT_LINE.finditer(text.rpartition("Traceback of TorchScript")[2]))
    outside = [match for match in found if not _IN_TORCH.search(match["file"])] or found
    if not outside:
        return ""
    match = outside[-1]
    before = match.string[match.end() :].partition(_SCRIPT_HERE)[0].rstrip().splitlines()
    source = before[-2] if len(before) > 1 else ""
    return _described(match["file"], int(match["line"][:9]), match["function"], source)


def _described(path: str, line: int, function: str, source: str) -> str:
    shown = clean(source, MOST_SOURCE)
    return f" ({clean(path[-MOST_SOURCE:])}, line {line}, in {clean(function, 60)}{f': {shown}' if shown else ''})"
