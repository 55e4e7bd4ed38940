"""The exceptions of this package, one class for each reaction of the caller.

::

    EcmfError
    ├── InputError              the user's input is wrong: exit code 2
    │   ├── ParamsError         a key or value of params.yaml is wrong
    │   ├── CorpusError         the corpus folder, its csv files or its labels cannot be used
    │   │   └── AmbiguousName   a name in a csv file matches several clips: its row is ignored
    │   ├── TooFewClips         too few clips, classes or groups to train on
    │   ├── MissingInput        a file that an earlier stage writes does not exist yet
    │   ├── ModelError          model weights are missing, altered or of another shape
    │   │   └── MissingWeights  model weights are not on this machine
    │   └── StoreError          a feature store cannot be read
    │       ├── StaleStore      a feature store was made with other settings than params.yaml has
    │       └── StoreBusy       another run is writing to the store
    ├── ClipError               one clip is bad: it is quarantined with its class as the reason; the run continues
    │   └── UnexpectedError     any other exception at one clip: quarantined too, possibly a bug of this package
    ├── TooManyQuarantined      more clips are bad than the params allow: exit code 1
    ├── BudgetSpent             the request or token budget is spent: exit code 1
    ├── TryAgain                clips failed for transient reasons: exit code 1, so DVC runs the stage again
    └── Interrupted             Ctrl-C or SIGTERM: exit code 130; completed work is kept

Any other exception that no clip causes is a bug of this package and propagates with its traceback.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Self

WORKER_NOTE = "In a worker:"
"""First line of the exception note that holds the traceback of a worker process."""
_SHOWN_FRAMES = 3
_SHOWN_CHARACTERS = 300


class EcmfError(Exception):
    """Base class of all errors raised on purpose.

    The message names what failed and where (file, key or clip). The hint and the command show how to fix it::

        error: data/manifest.csv does not exist
        hint: run the stage that writes it
          ecmf-pipe index

    Args:
        message: The failure, with file, key or clip.
        hint: How to fix it.
        command: The shell command that fixes it, without backquotes.
    """

    exit_code = 1
    """Exit code of the command that raises this error."""

    default_hint: str | None = None
    """Hint of an error that is raised without one."""

    def __init__(self, message: str = "", hint: str | None = None, *, command: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.command = command

    def __str__(self) -> str:
        return format_message(self.message, self.hint, self.command)


def format_message(message: str, hint: str | None = None, command: str | None = None) -> str:
    """Join a message, its hint and its command: one, two or three lines."""
    lines = [message]
    if hint or command:
        lines.append(f"hint: {hint or 'run'}")
    if command:
        lines.append(f"  {command}")
    return "\n".join(lines)


class InputError(EcmfError):
    """The user's input is wrong; the command ends with exit code 2."""

    exit_code = 2


class ParamsError(InputError):
    """A key or value of params.yaml is wrong.

    Args:
        message: The problem, with file and keys.
        hint: How to fix it.
        command: The shell command that fixes it.
        keys: The wrong keys, dotted, such as ``train.hidden``; empty if unknown.
    """

    def __init__(
        self, message: str, hint: str | None = None, *, command: str | None = None, keys: Sequence[str] = ()
    ) -> None:
        super().__init__(message, hint, command=command)
        self.keys = tuple(keys)


class CorpusError(InputError):
    """The corpus folder, its labels or one of its csv files cannot be used."""


class AmbiguousName(CorpusError):
    """A name matches several clips."""


class TooFewClips(InputError):
    """There are too few clips, classes or groups to train on."""


class MissingInput(InputError):
    """A file that an earlier stage writes does not exist yet."""


class ModelError(InputError):
    """Model weights are missing, altered or of another shape than the encoder expects."""


class MissingWeights(ModelError):
    """Model weights are not on this machine and cannot be fetched; stored features can be read without them."""


class StoreError(InputError):
    """A feature store cannot be read."""


class StaleStore(StoreError):
    """A feature store was made with other settings than params.yaml has.

    Args:
        message: The difference, with the store.
        hint: How to fix it.
        command: The shell command that fixes it.
        keys: The settings that differ, dotted, such as ``media.frames``; empty if unknown.
    """

    def __init__(
        self, message: str, hint: str | None = None, *, command: str | None = None, keys: Sequence[str] = ()
    ) -> None:
        super().__init__(message, hint, command=command)
        self.keys = tuple(keys)


class StoreBusy(StoreError):
    """Another run is writing to the feature store or to the cache of LLM answers."""


class ClipError(EcmfError):
    """One clip is bad; the class name is its reason in the quarantine table.

    Args:
        message: The failure.
        hint: How to fix it.
        command: The shell command that fixes it.
        limit: The limit that the clip met, if a setting can lift it; see `is_lifted`.
    """

    is_defect = True
    """Whether the clip counts towards the share of bad clips that params allow."""

    is_transient = False
    """Whether the cause is outside the clip's content, so the next run tries the clip again."""

    is_version_bound = False
    """Whether the program may be the cause, so another version of it, or of its libraries, tries the clip again."""

    def __init__(
        self, message: str = "", hint: str | None = None, *, command: str | None = None, limit: float | None = None
    ) -> None:
        super().__init__(message, hint, command=command)
        self.limit = limit

    @staticmethod
    def is_lifted(limit: float, setting: float) -> bool:  # noqa: ARG004 - most errors have no limit
        """Return whether a clip that met ``limit`` may succeed under the present value of the setting."""
        return False

    @property
    def reason(self) -> str:
        """Name of the class, as stored in the quarantine table."""
        return type(self).__name__


def clip_error(reason: str) -> type[ClipError]:
    """Return the exception class with the name ``reason``; `ClipError` if there is none."""
    error_class = globals().get(reason)
    return error_class if isinstance(error_class, type) and issubclass(error_class, ClipError) else ClipError


class UnreadableMedia(ClipError):
    """No reader can decode the file."""


class TruncatedMedia(UnreadableMedia):
    """Less of the file can be decoded than `media.least_readable`; its limit is the share that was read, 0 to 1."""

    @staticmethod
    def is_lifted(limit: float, setting: float) -> bool:
        """Return whether `media.least_readable` now accepts the share that was read."""
        return setting <= limit


class WrongLength(ClipError):
    """The length of the file differs from that in the tables of the corpus."""


class NoVideoStream(ClipError):
    """The file has no video stream."""


class TooManyPictures(ClipError):
    """The requested frames of the file take more memory than one clip may use."""


class NoAudioStream(ClipError):
    """The file has no audio stream."""


class SilentAudio(ClipError):
    """Every audio sample is zero: a muted track, which must not be encoded as a quiet voice.

    This is a property of the clip, not a defect.
    """

    is_defect = False


class NothingToEncode(ClipError):
    """The clip holds nothing that the encoder can encode, for example because it is too short."""


class FeaturesNotFinite(ClipError):
    """The clip's features hold NaN, or numbers outside the range of the store's dtype."""


class FileUnreachable(ClipError):
    """The file does not exist any more or cannot be read at present."""

    is_transient = True


class ChangedSinceIndex(ClipError):
    """The file has changed since it was indexed."""

    is_transient = True


class NoFaceFound(ClipError):
    """No sampled frame shows a face."""


class UnusableFaceCrops(ClipError):
    """The file of a clip's face crops does not hold face crops."""


class UnusableFeatures(ClipError):
    """The data to import for a clip are not an array of features."""


class WorkerCrashed(ClipError):
    """The worker process crashes on the clip, even if it is processed alone."""

    is_version_bound = True


class UnexpectedError(ClipError):
    """An exception that this package does not expect, while one clip was opened or computed: possibly a bug of ours.

    Attributes:
        cause: Class of the exception and the place that raised it; equal for failures with the same cause.
        trace: The traceback as text.
    """

    is_version_bound = True
    cause = ""
    trace = ""

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Describe an exception by its class, its message and the last frames of its traceback."""
        frames = traceback.extract_tb(error.__traceback__)[-_SHOWN_FRAMES:]
        places = [f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}" for frame in frames]
        text = "".join(traceback.format_exception_only(error)).strip()
        if len(text) > _SHOWN_CHARACTERS:
            text = f"{text[:_SHOWN_CHARACTERS]}..."
        unexpected = cls(f"{text} (at {', called by '.join(places[::-1])})" if places else text)
        unexpected.cause = f"{type(error).__module__}.{type(error).__qualname__} {places[-1] if places else ''}"
        unexpected.trace = "".join(traceback.format_exception(error)).rstrip()
        return unexpected


class WorkerKilled(ClipError):
    """The worker process was killed from outside, even when the clip was processed alone."""

    is_transient = True


class OutOfMemory(ClipError):
    """The clip needs more memory than is available, even if it is processed alone."""


class RequestRefused(ClipError):
    """A server refuses the request about the clip (too long, content filter) but answers others."""


class ServerUnavailable(ClipError):
    """Every request about the clip failed on the server's side."""

    is_transient = True


class ClipTimeout(ClipError):
    """The clip takes longer than `clip_timeout`, even if it is processed alone; its limit is in seconds."""

    @staticmethod
    def is_lifted(limit: float, setting: float) -> bool:
        """Return whether `clip_timeout` is now longer."""
        return setting > limit


class TooManyQuarantined(EcmfError):
    """More clips are quarantined than the params allow; what was computed is kept."""


class BudgetSpent(EcmfError):
    """The request or token budget of `llm.budget` is spent; answers received so far are kept."""

    default_hint = "answers received so far are kept: raise llm.budget, or run the same command again to continue"


class TryAgain(EcmfError):
    """Some items failed for a transient reason; completed work is kept."""

    default_hint = "completed work is kept: run the same command again"


class Interrupted(EcmfError):
    """Ctrl-C or SIGTERM ended a run early; completed work is kept."""

    exit_code = 130
    default_hint = "completed work is kept: run the same command again to continue"
