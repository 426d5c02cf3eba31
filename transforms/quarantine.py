"""One image at a time in a child process, so that the image that ends the process is known by it.

For a unit over which two processes died already: a crash in a decoder, a hang on the device, the kernel's
out-of-memory kill. The child is a fresh interpreter that imports neither Beam nor the program's main module, which
multiprocessing would import again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

from transforms import fetching, images
from transforms.errors import RunError
from transforms.fingerprints import VariantRun
from transforms.prepared import PreparedImage, prepare_images
from transforms.records import Failure, FloatArray, ImageInfo, ImageRef, Step, StepSeconds

WORKER_DIED = "worker_died"
IMAGE_SECONDS = 300.0
"""One image in all steps and models; on a CPU the largest model takes seconds."""
LOAD_SECONDS = 1800.0
DEATHS_AT_MOST = 8
"""In one unit; more are the machine's fault and not the images'."""
EXIT_SECONDS = 60.0
"""From the end of the child's connection to its own, which writing a core file can put off."""


@dataclass(frozen=True, eq=False)
class Quarantined:
    """One image that was fetched, decoded and scored alone.

    Attributes:
        outcome: What the rows will say, or why there is none for any variant.
        scores: By variant `logits` and `features`, float32 `[width]`, those that the variant gives; empty for a
            failure.
        failed: By variant why its model, and only that, has no scores; the variant is not in `scores`.
        seconds: What it took.
    """

    outcome: ImageInfo | Failure
    scores: Mapping[str, Mapping[str, FloatArray]] = field(default_factory=dict)
    failed: Mapping[str, Failure] = field(default_factory=dict)
    seconds: StepSeconds = field(default_factory=StepSeconds)


# The parent's own path; -c would put the user's working directory first.
_WORK = "import sys; sys.path[:] = {path}; from transforms import quarantine; quarantine.work({fd}, {parent})"


class _Message(NamedTuple):
    """What the child says: that it is ready, which step it begins, the result, or what was raised."""

    kind: Literal["ready", "step", "done", "raised"]
    value: Any = None


def one_at_a_time(
    refs: Sequence[ImageRef], runs: tuple[VariantRun, ...], image_seconds: float = IMAGE_SECONDS
) -> Iterator[Quarantined]:
    """Each image in order, alone in a child process; one over which the child dies or hangs is a Failure.

    The next image has a new child. The child ends with the iterator, also where that is left early.

    Args:
        refs: The images.
        runs: The variants.
        image_seconds: An image that takes longer hangs.

    Raises:
        RunError: More than `DEATHS_AT_MOST` children died, or one died before it had an image; or as raised in
            the child.
        RuntimeError: Another exception was raised in the child; the text is its traceback.
    """
    child: _Child | None = None
    deaths = 0
    try:
        for ref in refs:
            result = None
            while result is None:
                child = child or _Child(runs)
                try:
                    result = child.work_on(ref, image_seconds)
                except _Died as death:
                    child.close()
                    child = None
                    deaths += 1
                    _check_deaths(deaths, death, ref)
                    result = _failure(ref, death)
            yield result
    finally:
        if child:
            child.close()


def _check_deaths(deaths: int, death: _Died, ref: ImageRef) -> None:
    if deaths > DEATHS_AT_MOST:
        raise RunError(
            f"{deaths} processes that scored one image at a time ended, the last one at {ref.uri} ({death.how}): that "
            "is the machine and not the images; look after its memory and its device, then run the same command again"
        )


def _failure(ref: ImageRef, death: _Died) -> Quarantined | None:
    """The image's failure; None where the child was dead before it began with the image."""
    if death.step is None:
        return None
    name = "model" if death.step == "infer" else death.step
    message = f"the process that worked on it {death.how}"
    return Quarantined(
        Failure(ref, death.step, WORKER_DIED, message), seconds=StepSeconds(**{name: death.seconds})
    )


class _Died(Exception):
    """The child is gone.

    Args:
        how: `died: SIGSEGV`, `did not end within 300 s`.
        step: What it was at; None where it had not begun.
        seconds: How long it was at the image.
    """

    def __init__(self, how: str, step: Step | None, seconds: float) -> None:
        super().__init__(how)
        self.how = how
        self.step = step
        self.seconds = seconds


class _Child:
    """A child process with the models loaded; RunError where it cannot get so far."""

    def __init__(self, runs: tuple[VariantRun, ...]) -> None:
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            # A default timeout, which Beam's client of Cloud Storage sets, would make reads fail that have to wait.
            each.setblocking(True)
        with theirs:
            self._connection = Connection(ours.detach())
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _WORK.format(path=sys.path, fd=theirs.fileno(), parent=os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        try:
            self._connection.send(runs)
            self._receive(time.monotonic() + LOAD_SECONDS, LOAD_SECONDS)
        except (_Died, OSError) as error:
            how = error.how if isinstance(error, _Died) else self._cause()
            self.close()
            raise RunError(
                f"the process that scores one image at a time {how} while it loaded the models; look after the "
                "machine's memory and its device, then run the same command again"
            ) from error
        except BaseException:
            self.close()
            raise

    def work_on(self, ref: ImageRef, seconds: float) -> Quarantined:
        """One image's result; _Died where the child ended, or was ended because it took longer."""
        started = time.monotonic()
        step: Step | None = None
        try:
            self._connection.send(ref)
            while True:
                message = self._receive(started + seconds, seconds)
                if message.kind == "done":
                    result: Quarantined = message.value
                    return result
                step = message.value
        except BrokenPipeError:
            raise _Died(self._cause(), None, 0.0) from None
        except _Died as death:
            raise _Died(death.how, step, time.monotonic() - started) from None

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _receive(self, deadline: float, seconds: float) -> _Message:
        """The child's next message; what it raised is raised here."""
        if not self._connection.poll(max(0.0, deadline - time.monotonic())):
            raise _Died(f"did not end within {seconds:g} s", None, seconds)
        try:
            message: _Message = self._connection.recv()
        except (EOFError, OSError):
            # OSError: it died in the middle of a message.
            raise _Died(self._cause(), None, 0.0) from None
        if message.kind == "raised":
            raise message.value
        return message

    def _cause(self) -> str:
        """How the child ended by itself."""
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"died: exit code {code}"
        hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"died: {signal.Signals(-code).name}{hint}"


def work(descriptor: int, parent: int) -> None:
    """The child: loads the models of the runs that it is sent first, then works on each image that it is sent.

    Args:
        descriptor: Of its end of the connection.
        parent: Process id; this process ends with that one.
    """
    # A terminal's Ctrl-C comes to this process too; the parent ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(descriptor) as connection:
        threading.Thread(target=_die_with, args=[parent], daemon=True).start()
        try:
            runs: tuple[VariantRun, ...] = connection.recv()
            models = _load(runs)
            connection.send(_Message("ready"))
            while True:
                connection.send(_Message("done", _work_on(connection.recv(), models, runs, connection)))
        except EOFError:
            return
        except RunError as error:
            connection.send(_Message("raised", error))
        except Exception as error:
            connection.send(_Message("raised", RuntimeError(traceback.format_exc())))
            raise SystemExit(1) from error


def _work_on(ref: ImageRef, models: Any, runs: tuple[VariantRun, ...], connection: Connection) -> Quarantined:
    """One image through all steps, each of which is announced."""
    connection.send(_Message("step", "fetch"))
    fetched = fetching.fetch(ref, images.MAX_BYTES)
    connection.send(_Message("step", "decode"))
    (image,) = prepare_images([fetched], runs)
    if isinstance(image.outcome, Failure):
        return Quarantined(image.outcome, seconds=image.seconds)
    connection.send(_Message("step", "infer"))
    return _score(models, image, runs)


def _load(runs: tuple[VariantRun, ...]) -> Any:
    # TensorFlow is for the child only.
    from transforms.runtime import load_models

    return load_models(runs)


def _score(models: Any, image: PreparedImage, runs: tuple[VariantRun, ...]) -> Quarantined:
    """A prepared image through each variant's model, as a batch of one."""
    started = time.perf_counter()
    scores: dict[str, Mapping[str, FloatArray]] = {}
    failed: dict[str, Failure] = {}
    for variant in (run.variant.name for run in runs):
        scored = models.score(variant, image.pixels[variant][None])
        if scored.failed:
            failed[variant] = Failure(image.outcome.ref, "infer", *scored.failed[0])
        else:
            scores[variant] = {name: values[0] for name, values in scored.outputs.items()}
    seconds = image.seconds + StepSeconds(model=time.perf_counter() - started)
    return Quarantined(image.outcome, scores, failed, seconds)


def _die_with(parent: int) -> None:
    """End this process when its parent has died, also in the middle of an image that hangs."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
