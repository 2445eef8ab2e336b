"""Tunings as jobs of an engine.

A training on a worker stores checkpoints, weights and record in the same places as a local one, which all machines
share. So a tuning whose worker is lost resumes elsewhere from its last checkpoint, and a finished one is available
whichever worker dies. A worker is refused if its code, weights or sounds differ, as the tuned weights would differ too.
It is also refused if it does not see the shared folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from uamix_bench.data.sound import sound_digests, sounds
from uamix_bench.data.task import is_path
from uamix_bench.engines.engine import Engine, Stop, host, never
from uamix_bench.engines.same_code import Versions, check_versions, refuse_other, versions
from uamix_bench.storage.digests import sounds_sha256
from uamix_bench.tuning.sounds import find_data
from uamix_bench.tuning.trainings import Job, carry_out, is_finished
from uamix_bench.util import files
from uamix_bench.util.errors import BenchError, MachineError, Stopped
from uamix_bench.util.progress import SILENT, Progress
from uamix_bench.util.threads import Watch

if TYPE_CHECKING:  # torch is imported where a model is
    from uamix_bench.models.model import Source

_LATE_S = 60.0  # within which a network file system shows what another machine has written
_LOOK_S = 0.5


class Errand(NamedTuple):
    """Tuning as a job, with what a worker checks that may have other code, inputs and disks than the caller.

    Attributes:
        job: Tuning to carry out; with absolute paths for a worker elsewhere.
        versions: Versions of the caller's code.
        basis: Digests of all else that its weights depend on, by name.
        sign: File that the caller wrote beside the job's folder; a worker that sees it shares the folder.
    """

    job: Job
    versions: Versions = ()
    basis: dict[str, str] = {}  # noqa: RUF012 - a worker looks at it only
    sign: Path | None = None

    @property
    def label(self) -> str:
        """Name of the job in messages."""
        return self.job.label


def tune_all(
    engine: Engine,
    jobs: Sequence[Job],
    *,
    keep_going: bool = False,
    progress: Progress = SILENT,
    stop: Stop = never,
) -> dict[Path, BenchError]:
    """Carries out tunings that do not depend on one another.

    Args:
        engine: Engine that tunes.
        jobs: Tunings, each in a folder of its own, side by side.
        keep_going: Whether the other tunings go on after a failure, such as a loss that is not finite.
        progress: Progress display, advanced with every tuning; on this machine with every step, too.
        stop: Function polled meanwhile; True ends all tunings with their state saved, on a cluster by the last
            checkpoint.

    Returns:
        Errors of failed tunings by folder; empty without `keep_going`.

    Raises:
        Stopped: `stop` returned True.
        MachineError: Workers were lost; or a worker has other versions, weights or sounds, or does not see the folders.
        BenchError: A tuning failed, the first failure; tunings beside it are ended and can be resumed.
    """
    if not jobs:
        return {}
    failed: dict[Path, BenchError] = {}
    with (
        files.probe(jobs[0].folder.parent) as sign,
        progress.bar(f"{len(jobs)} tunings", len(jobs), "tunings") as advance,
        closing(engine.map(carry_out_errand, _errands(engine, jobs, sign, progress), progress, stop)) as ended,
    ):
        for index, error in ended:
            job = jobs[index]
            if error is None:
                _await(job)
                progress.say(f"{job.label} is tuned")
            elif keep_going:
                progress.say(f"{job.label} is set aside: {error}")
                failed[job.folder] = error
            else:
                raise error
            advance(1, job.label)
    return failed


def _errands(engine: Engine, jobs: Sequence[Job], sign: Path, progress: Progress) -> list[Errand]:
    if not engine.elsewhere:
        return list(map(Errand, jobs))
    ours = versions()
    grounds: dict[Any, tuple[Source, dict[str, str]]] = {}  # the same for all arms of an ablation
    errands = []
    for job in jobs:
        place = (job.init, job.data, job.data_dir, job.audio_root)
        source, basis = grounds.get(place) or grounds.setdefault(place, _ground(job, progress))
        errands.append(Errand(_anywhere(job, source), ours, basis, sign.absolute()))
    return errands


def carry_out_errand(errand: Errand, progress: Progress, stop: Stop) -> BenchError | None:
    """Carries out a tuning on a worker; returns its error if it failed.

    A process of a killed caller may still work on the job. Then this one waits for it, and resumes where it ends.

    Raises:
        MachineError: The worker has other versions, weights or sounds than the caller, or does not see the folder.
        Stopped: `stop` returned True.
    """
    job = errand.job
    if errand.sign is not None:
        _check_worker(errand, errand.sign, progress)
    with files.locked(files.make_folder(job.folder) / "lock", progress.say):
        if is_finished(job):
            return None
        try:
            carry_out(job, progress, stop)
        except Stopped:
            raise
        except BenchError as error:
            return error
    return None


def _check_worker(errand: Errand, sign: Path, progress: Progress) -> None:
    """Checks that this worker would make the weights that the caller would, where the caller sees them."""
    check_versions(errand.versions)
    if not sign.exists():
        reason = f"does not see what the caller writes to {sign.parent}"
        remedy = "put UAMIX_BENCH_HOME on a disk that all machines share"
        raise MachineError(f"the worker on {host()}", reason, remedy)
    try:
        _, here = _ground(errand.job, progress)
    except BenchError as error:
        raise MachineError(f"{error.subject} on {host()}", error.reason, error.remedy) from error
    refuse_other("", here, errand.basis, "give every machine the same weights and sounds under the same paths")


def _ground(job: Job, progress: Progress) -> tuple[Source, dict[str, str]]:
    """Initial model of a tuning, and digests of all that its weights depend on besides recipe and code."""
    from uamix_bench.tuning.run import initial_model

    model, data = initial_model(job.init), find_data(job.data, job.data_dir, job.audio_root)
    data.task.materialise(data.table, progress)
    digested = sound_digests(sounds(data.table), progress=progress)
    return model.source, {
        f"digest of {model.source.checkpoint or model.source.name}": model.metadata["sha256"],
        f"list of the clips of {data.name}": data.clips_sha256,
        f"digest of the sounds of {data.name}": sounds_sha256(digested.digests),
    }


def _anywhere(job: Job, source: Source) -> Job:
    """Job with absolute paths, symbolic links kept, so that nothing depends on a worker's home folder."""

    def absolute(path: str | Path) -> Path:
        return Path(os.path.abspath(path))  # noqa: PTH100

    return job._replace(
        init=f"{source.name}={source.checkpoint}" if source.checkpoint else source.name,
        data=str(absolute(job.data)) if is_path(job.data) else job.data,
        data_dir=absolute(job.data_dir or files.home() / "data"),
        audio_root=absolute(job.audio_root) if job.audio_root else None,
        folder=absolute(job.folder),
        head=absolute(job.head) if job.head else None,
    )


def _await(job: Job) -> None:
    """Waits until the files that a worker wrote are visible here.

    Raises:
        MachineError: The files do not appear in time.
    """
    watch = Watch(_LOOK_S)
    while not is_finished(job):
        if watch.look() > _LATE_S:
            reason = "a worker finished it, and it is not here"
            raise MachineError(job.folder, reason, "put UAMIX_BENCH_HOME on a disk that all machines share")
        time.sleep(_LOOK_S)
        list(job.folder.glob("*"))  # a network file system asks for a folder again when it is listed
