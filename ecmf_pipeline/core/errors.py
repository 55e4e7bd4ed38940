"""Every error this package raises on purpose, named by what the caller must do next.

::

    EcmfError
    ├── InputError              the user's input is wrong: the command ends with exit code 2
    │   ├── ParamsError         a key or value of params.yaml
    │   ├── CorpusError         the corpus folder, its csv files, its labels
    │   │   └── AmbiguousName   a name in a csv file fits several clips: its row is left out
    │   ├── TooFewClips         nothing to train on: too few clips, classes or groups
    │   ├── MissingInput        a file that an earlier stage writes is not there yet
    │   ├── ModelError          weights that are absent, altered or of another shape
    │   └── StoreError          a feature store that cannot be read
    │       ├── StaleStore      a feature store made with other settings than the ones asked for
    │       └── StoreBusy       another run is writing to the store just now
    ├── ClipError               one clip is bad: it is quarantined, its class is the reason, and the run goes on
    ├── TooManyQuarantined      more clips are bad than the params allow: exit code 1
    ├── BudgetSpent             what params allow to be sent to a server is sent: exit code 1
    ├── TryAgain                clips failed for reasons that may pass: exit code 1, so that DVC runs the stage again
    └── Interrupted             Ctrl-C or SIGTERM: exit code 130, what was complete is kept

Anything else that is raised is a bug of ours and propagates with its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

WORKER_NOTE = "In a worker:"
"""Begins the note that holds a worker's traceback, on an error that came from one."""


class EcmfError(Exception):
    """Base of all errors raised on purpose.

    The message reads ``what failed, where`` (file, key or clip); the hint and the command tell how to fix it::

        error: data/manifest.csv does not exist
        hint: run the stage that writes it
          ecmf-pipe index

    Args:
        message: What failed and where.
        hint: How to fix it.
        command: The shell command that fixes it, without backquotes.
    """

    exit_code = 1

    default_hint: str | None = None
    """Hint of errors raised without one."""

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
    """The user's input is wrong: the command ends with exit code 2."""

    exit_code = 2


class ParamsError(InputError):
    """A key or value of params.yaml is wrong.

    Args:
        message: What is wrong and where.
        hint: How to fix it.
        command: The shell command that fixes it.
        keys: The keys concerned, dotted, such as ``train.hidden``; empty if unknown.
    """

    def __init__(
        self, message: str, hint: str | None = None, *, command: str | None = None, keys: Sequence[str] = ()
    ) -> None:
        super().__init__(message, hint, command=command)
        self.keys = tuple(keys)


class CorpusError(InputError):
    """The corpus folder or one of its csv files cannot be used."""


class AmbiguousName(CorpusError):
    """A name fits several clips."""


class TooFewClips(InputError):
    """There is nothing to train on: too few clips, classes or groups."""


class MissingInput(InputError):
    """A file that an earlier stage writes is not there yet."""


class ModelError(InputError):
    """Model weights are absent, altered or of another shape than the encoder expects."""


class StoreError(InputError):
    """A feature store cannot be read."""


class StaleStore(StoreError):
    """A feature store was made with other settings than the ones asked for."""


class StoreBusy(StoreError):
    """Another run is writing to the feature store, or the LLM's answers, just now."""


class ClipError(EcmfError):
    """One clip is bad; its class name is the reason kept in the quarantine table."""

    is_defect = True
    """Whether it counts towards the share of bad clips that params allow."""

    is_transient = False
    """Whether it says nothing about the clip's content, so that the next run tries again."""

    @property
    def reason(self) -> str:
        """The reason class of the quarantine table."""
        return type(self).__name__


def clip_error(reason: str) -> type[ClipError]:
    """Return the class that a reason of the quarantine table names; `ClipError` itself if there is none."""
    named = globals().get(reason)
    return named if isinstance(named, type) and issubclass(named, ClipError) else ClipError


class UnreadableMedia(ClipError):
    """No reader can decode the file."""


class NoVideoStream(ClipError):
    """The file holds no pictures."""


class TooManyPictures(ClipError):
    """The pictures that are asked for of the file take more memory than a clip is allowed."""


class NoAudioStream(ClipError):
    """The file holds no sound."""


class SilentAudio(ClipError):
    """The sound is nothing but zeros: a muted track says nothing, and must not pass for a quiet voice.

    That is how the clip is, and no defect of it.
    """

    is_defect = False


class NothingToEncode(ClipError):
    """The encoder finds nothing in the clip that it could describe (too short, no landmarks)."""


class FeaturesNotFinite(ClipError):
    """The clip's features hold NaN, or numbers beyond what the store's type can hold."""


class FileUnreachable(ClipError):
    """The file is gone or may not be read just now."""

    is_transient = True


class ChangedSinceIndex(ClipError):
    """The file is not the one that was indexed."""

    is_transient = True


class NoFaceFound(ClipError):
    """No sampled frame shows a face."""


class UnusableFaceCrops(ClipError):
    """The file that should hold a clip's face crops holds something else."""


class UnusableFeatures(ClipError):
    """What is to be imported for a clip is no array of features."""


class WorkerCrashed(ClipError):
    """The clip makes the process that works on it crash, also when it is tried alone."""


class WorkerKilled(ClipError):
    """The process that works on the clip was killed from outside, also when the clip was tried alone."""

    is_transient = True


class OutOfMemory(ClipError):
    """The clip takes more memory than there is, also when it is tried alone."""


class RequestRefused(ClipError):
    """A server refuses to answer about the clip (too long, its content filter), while it answers about others."""


class ServerUnavailable(ClipError):
    """A server failed each time it was asked about the clip."""

    is_transient = True


class ClipTimeout(ClipError):
    """The clip takes longer than `clip_timeout`, also when it is tried alone."""


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
