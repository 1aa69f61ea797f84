r"""The evaluation log: one JSON line per evaluation, safe under concurrent writers.

A line is appended under an exclusive ``flock``, so that any number of threads and processes of one host may write the same file. A
write that fails half-way is taken back before the lock is released. A line that a killed writer left torn stays where it is, and
the next record starts on a line of its own.

JSON has no NaN and no infinities: they are written as the strings ``"nan"``, ``"inf"`` and ``"-inf"`` and read back as numbers.
Lone surrogates, which UTF-8 cannot hold, are written as text (``\ud800``).

A log whose name ends in ``.gz``, ``.xz`` or ``.bz2`` is read as it is. Records are appended to plain logs only.
"""

from __future__ import annotations

import bz2
import contextlib
import fcntl
import gzip
import io
import lzma
import math
import os
import stat
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from .types import SCHEMA_VERSION, Evaluation

_NOT_JSON = (b'"nan"', b'"inf"', b'"-inf"')
_OWN_START = b'{"schema_version":%d,' % SCHEMA_VERSION
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
COMPRESSED = tuple(_OPENERS)
"""Ends of the names of compressed logs, which are read only."""
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
Pathish = str | os.PathLike[str]


class LogError(Exception):
    """A log that cannot be written or read. The message says which file (and line), why, and what to do.

    Attributes:
        saved: Where a record that could not be appended lies instead; None if reading failed or saving it failed too.
        evaluation: That record.
        more: Where further records of a batch lie, if there are any.
    """

    def __init__(
        self, message: str, saved: Path | None = None, evaluation: Evaluation | None = None, more: Sequence[Path] = ()
    ) -> None:
        super().__init__(message)
        self.saved, self.evaluation, self.more = saved, evaluation, list(more)


class _Header(msgspec.Struct):
    schema_version: int


def append_record(path: Pathish, evaluation: Evaluation) -> None:
    """Append an evaluation to a log.

    Args:
        path: The log; it and its folder are created if missing. Devices and pipes work too.
        evaluation: The record.

    Raises:
        LogError: The record could not be appended. The log holds no part of it; the record is saved in the temp folder, and the
            message names that file (or says that this failed too).
    """
    line = encode_record(evaluation)
    try:
        _append(Path(path), line)
    except OSError as error:
        reason = _reason(error)
        try:
            saved = _save(line)
        except OSError as second:
            raise LogError(
                f"{path}: the evaluation could not be logged ({reason}) and is lost, because it could not be saved in the temp "
                f"folder either ({_reason(second)}); free space or choose another log", None, evaluation,
            ) from error
        raise LogError(
            f"{path}: the evaluation could not be logged ({reason}); it is saved in {saved}: append that file to a log that can "
            "be written", saved, evaluation,
        ) from error


def encode_record(evaluation: Evaluation) -> bytes:
    """The line of an evaluation, with its newline."""
    return msgspec.json.encode(_json_safe(msgspec.to_builtins(evaluation, enc_hook=_number))) + b"\n"


def read_log(path: Pathish, *, strict: bool = True) -> list[Evaluation]:
    """All evaluations of a log, in the order they were written. Arguments and errors as `iter_log`."""
    return list(iter_log(path, strict=strict))


def iter_log(path: Pathish, *, strict: bool = True) -> Iterator[Evaluation]:
    """The evaluations of a log, one at a time, as far as it was written when reading began.

    Args:
        path: The log: a file or a pipe. One whose name ends in ``.gz``, ``.xz`` or ``.bz2`` is decompressed as it is read.
        strict: Refuse a torn or invalid line. Otherwise skip such lines and say how many in one warning at the end; a compressed
            file that ends too early counts as one.

    Yields:
        Each evaluation. Unknown fields are ignored: newer versions of the library may add some.

    Raises:
        LogError: The log cannot be read; a line is invalid (if `strict`); or a line has another schema version, strict or not. The
            message names the line.
    """
    for _, evaluation in iter_lines(path, strict=strict):
        yield evaluation


def iter_lines(path: Pathish, *, strict: bool = True) -> Iterator[tuple[bytes, Evaluation]]:
    """As `iter_log`, with the line that each evaluation was read from."""
    skipped = 0
    try:
        with open_log(path) as file:
            for number, line in enumerate(_lines(file), 1):
                if line.isspace():
                    continue
                try:
                    yield line, decode_record(line)
                except _VersionError as error:
                    raise LogError(f"{path}: line {number} has {error}") from None
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    if strict:
                        raise LogError(
                            f"{path}: line {number} is torn or no evaluation ({error}); pass strict=False to skip such lines"
                        ) from error
                    skipped += 1
    except OSError as error:
        raise LogError(f"{path}: the log cannot be read: {_reason(error)}") from error
    except _DAMAGED as error:
        if strict:
            raise LogError(
                f"{path}: the compressed log is torn or damaged ({error}); pass strict=False to read what comes before"
            ) from error
        skipped += 1
    if skipped:
        warnings.warn(f"{path}: skipped {skipped} torn or invalid line{'s' if skipped > 1 else ''}", stacklevel=3)


def open_log(path: Pathish, mode: Literal["rb", "wb"] = "rb") -> BinaryIO:
    """A log's file, through the codec that the end of its name stands for (``.gz``, ``.xz``, ``.bz2``, else none)."""
    opener: Callable[..., BinaryIO] = _OPENERS.get(Path(path).suffix, open)
    return opener(path, mode)


class _VersionError(msgspec.MsgspecError):
    """A line of another schema version."""


def decode_record(line: bytes) -> Evaluation:
    """The evaluation of a line, as `encode_record` makes them.

    Raises:
        MsgspecError: It is none, or one of another schema version.
    """
    # Every line written here begins with its version; looking for it in others would take as long as decoding them.
    version = SCHEMA_VERSION if line.startswith(_OWN_START) else msgspec.json.decode(line, type=_Header).schema_version
    if version > SCHEMA_VERSION:
        raise _VersionError(
            f"schema version {version}, newer than version {SCHEMA_VERSION} that this library reads; update fastkernels-env"
        )
    if version < SCHEMA_VERSION:
        raise _VersionError(f"schema version {version}, but this library reads version {SCHEMA_VERSION}")
    # Lax decoding turns "nan" into a number; without such a string it would only hide errors.
    return msgspec.json.decode(line, type=Evaluation, strict=not any(word in line for word in _NOT_JSON))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a log up to its present end, so that a line which a writer has in hand is not seen as torn."""
    if not isinstance(file, io.BufferedReader):  # decompressed: nobody appends to it
        yield from file
        return
    kind = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(kind):
        if not stat.S_ISFIFO(kind):
            raise OSError(0, "expected a file or a pipe, it is a device")
        yield from file
        return
    fcntl.flock(file, fcntl.LOCK_SH)
    left = os.fstat(file.fileno()).st_size
    fcntl.flock(file, fcntl.LOCK_UN)
    while left > 0 and (line := file.readline(left)):
        left -= len(line)
        yield line


def _append(path: Path, line: bytes) -> None:
    if path.suffix in _OPENERS:
        raise OSError(0, "records are appended to plain files only, compress it afterwards")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A device or pipe may forbid reading; a regular file must be read to see how it ends.
    regular = not path.exists() or path.is_file()
    flags = (os.O_RDWR if regular else os.O_WRONLY) | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    fd = os.open(path, flags, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if regular:
            _append_whole(fd, line)
        else:
            _write(fd, line)
    finally:
        # Closing alone would not unlock while a process forked in the meantime holds a copy of the descriptor.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _append_whole(fd: int, line: bytes) -> None:
    """Append to a regular file, locked: all of the line is in it afterwards, or nothing."""
    size = os.fstat(fd).st_size
    torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
    data = b"\n" * torn + line
    try:
        _write(fd, data)
        os.fsync(fd)
    except BaseException as error:
        # Ctrl-C after the last byte loses nothing; a failed flush does, whatever the size says.
        if isinstance(error, OSError) or os.fstat(fd).st_size < size + len(data):
            os.ftruncate(fd, size)
        raise


def _write(fd: int, data: bytes) -> None:
    """One write call; a short one is continued, so that its cause (a full disk) is raised."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def _reason(error: OSError) -> str:
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"


def _save(line: bytes) -> Path:
    fd, name = tempfile.mkstemp(prefix="fastkernels-env-record-", suffix=".jsonl")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(line)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return Path(name)


def _number(value: Any) -> Any:
    """A NumPy scalar or a one-element tensor as a plain number."""
    if not hasattr(value, "item"):
        raise TypeError(f"an evaluation holds a {type(value).__name__}, which is no plain data")
    return value.item()


def _json_safe(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_json_safe(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    return value
