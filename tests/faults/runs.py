"""Real training processes of the tiny flagship, and what happens to them.

A job is one workdir: a fault ends (or damages) what runs there, the next process goes on from what is left. After every
fault the losses logged so far must be those of an undisturbed run, digit by digit; at the job's end the parameters, bit
by bit. The disk that is full and the one that turns read-only are real: a small tmpfs in a mount namespace of the
process's own.
"""

import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from tadjax.workdir import locking
from tests.conftest import ROOT
from tests.faults.jobs import NAMESPACE, PATIENCE, Job, Undisturbed, disk_use, workers_of
from tests.training.test_loop import command

# W the workdir, S where it lies otherwise, K its size in KiB
FULL_DISK = """
mount -t tmpfs -o size=${K}k tmpfs "$W" && cp -a "$S/." "$W" && { "$@"; status=$?; cp -a "$W/." "$S"; exit $status; }
"""
READ_ONLY = """
mount -t tmpfs tmpfs "$W" && cp -a "$S/." "$W" || exit 99
"$@" & pid=$!
until grep -q "\\"step\\": $STEP," "$W/metrics.jsonl" 2>/dev/null || [ ! -d /proc/$pid ]; do sleep 0.05; done
mount --bind "$W" "$W" && mount -o remount,bind,ro "$W"
wait $pid; status=$?
cp -a "$W/." "$S"; exit $status
"""


# Faults: each takes a job and random numbers, does what its name says, and returns whether it came to that.


def killed(job: Job, rng: random.Random, moment: Callable[[subprocess.Popen], bool], options: tuple = ()) -> bool:
    process = job.start(*options)
    if not job.reaches(process, lambda: moment(process)):
        return False
    time.sleep(rng.uniform(0, 0.2))
    process.kill()
    process.wait()
    return True


def killed_while_decoding(job: Job, rng: random.Random) -> bool:
    return killed(job, rng, lambda process: bool(workers_of(process)))


def killed_while_stepping(job: Job, rng: random.Random) -> bool:
    target = job.step() + rng.randint(1, 4)
    return killed(job, rng, lambda _: job.step() >= target)


def killed_while_saving(job: Job, rng: random.Random) -> bool:
    return killed(job, random.Random(0) if rng.random() < 0.5 else rng, lambda _: job.is_saving())


def killed_while_evaluating(job: Job, rng: random.Random) -> bool:
    target = (job.step() // 6 + 1) * 6
    return killed(job, rng, lambda _: job.step() >= target)


def evaluation_killed(job: Job, rng: random.Random) -> bool:
    """A process that evaluates the newest weights; it must leave the run as it is."""
    if not job.checkpoints():
        return False
    return killed(job, rng, lambda process: bool(workers_of(process)), ("--mode=evaluate",))


def terminated(job: Job, target: int) -> bool:
    process = job.start()
    if not job.reaches(process, lambda: job.step() >= target):
        return False
    process.terminate()
    job.ends(process, 0)
    job.done = "SIGTERM: saved" not in job.said()  # it came after the last step
    return True


def terminated_while_stepping(job: Job, rng: random.Random) -> bool:
    return terminated(job, job.step() + rng.randint(1, 4))


def terminated_while_evaluating(job: Job, rng: random.Random) -> bool:
    return terminated(job, (job.step() // 6 + 1) * 6)


def interrupted(job: Job, moment: Callable[[subprocess.Popen], bool], *words: str) -> bool:
    """Ctrl-C, as a terminal sends it: to the workers too."""
    process = job.start()
    if not job.reaches(process, lambda: moment(process)):
        return False
    for pid in (*workers_of(process), process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    if process.wait(timeout=PATIENCE) == 0:  # it came after the last step
        job.done = True
        return False
    job.ends(process, 130)
    said = [line for line in job.said().splitlines() if line.startswith("Ctrl-C: ")]
    assert len(said) == 1 and any(word in said[0] for word in words), job.said()[-2000:]
    return True


def interrupted_while_decoding(job: Job, rng: random.Random) -> bool:
    return interrupted(job, lambda process: bool(workers_of(process)), "saved at step", "is saved yet", "is saved, and")


def interrupted_while_stepping(job: Job, rng: random.Random) -> bool:
    target = job.step() + rng.randint(1, 4)
    return interrupted(job, lambda _: job.step() >= target, "saved at step")


def started_twice(job: Job, rng: random.Random) -> bool:
    """The second start is told who holds the workdir and writes nothing; the first goes on.

    The first stands still meanwhile, as it would be through before the second has started.
    """
    process, target = job.start(), job.step() + 1
    try:
        if not job.reaches(process, lambda: job.step() >= target):
            return False
        process.send_signal(signal.SIGSTOP)
        if not (job.workdir / locking.FILE).exists():  # it was through
            return False
        second = subprocess.run(
            command(job.config, job.workdir), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        holder = f"a run is at work here, process {process.pid} on {socket.gethostname()} since"
        assert second.returncode == 2 and holder in second.stderr, second.stderr[-2000:]
        assert "Traceback" not in second.stderr, second.stderr[-2000:]
        process.send_signal(signal.SIGCONT)
        later = job.step() + 1
        return job.reaches(process, lambda: job.step() >= later) or job.done
    finally:
        process.kill()
        process.wait()


def launcher_killed(job: Job, rng: random.Random) -> bool:
    """SIGKILL of launch/local.py: its process ends at once, and that one's workers."""
    process, target = job.start(launcher=True), job.step() + rng.randint(1, 2)
    if not job.reaches(process, lambda: job.step() >= target):
        return False
    children = [
        int(pid) for pid in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    below = [pid for child in children for pid in workers_of(child)]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while running := [pid for pid in (*children, *below) if is_running(pid)]:
        assert time.monotonic() < deadline, f"{running} go on without their launcher"
        time.sleep(0.1)
    return bool(children)


def is_running(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def worker_killed(job: Job, rng: random.Random) -> bool:
    target = job.step() + rng.randint(1, 3)
    process = job.start()
    if not job.reaches(process, lambda: job.step() >= target and bool(workers_of(process))):
        return False
    for pid in workers_of(process):
        os.kill(pid, signal.SIGKILL)
    return ends_or_was_through(job, process, "a worker process that decodes videos ended unexpectedly", "-9")


def ends_or_was_through(job: Job, process: subprocess.Popen, *words: str) -> bool:
    """Ends with one sentence; or everything had been decoded already, and the run is at its end."""
    if process.wait(timeout=PATIENCE) == 0:
        job.done = True
        return False
    job.ends(process, 2, *words)
    return True


def video_damaged(job: Job, rng: random.Random, damage: Callable[[pathlib.Path], None]) -> bool:
    video = pathlib.Path(job.config.data.videos) / f"video{rng.randrange(5)}.mp4"
    whole, target = video.read_bytes(), job.step() + rng.randint(1, 3)
    process = job.start()
    try:
        if not job.reaches(process, lambda: job.step() >= target):
            return False
        damage(video)
        return ends_or_was_through(job, process, video.name)
    finally:
        process.kill()
        video.write_bytes(whole)


def video_vanishes(job: Job, rng: random.Random) -> bool:
    return video_damaged(job, rng, pathlib.Path.unlink)


def video_turns_corrupt(job: Job, rng: random.Random) -> bool:
    return video_damaged(job, rng, lambda video: video.write_bytes(rng.randbytes(video.stat().st_size)))


def newest_checkpoint_cut(job: Job, rng: random.Random) -> bool:
    """The largest file of the newest checkpoint loses its end; the run goes on from the one before, and says so."""
    if len(job.checkpoints()) < 2:
        return False
    newest = job.checkpoints()[-1]
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: int(rng.random() * largest.stat().st_size)])
    target = job.step() + 1
    process = job.start()
    reached = job.reaches(process, lambda: job.step() >= target)
    process.kill()
    process.wait()
    assert f"checkpoints/{newest.name} is damaged" in job.said() and "set aside" in job.said(), job.said()[-2000:]
    return reached


def confined(job: Job, script: str, **variables: str) -> subprocess.Popen:
    """The next process in a mount namespace of its own, its workdir on a tmpfs there, as `script` says."""
    beside = job.workdir.with_name("beside")
    if job.workdir.exists():
        job.workdir.rename(beside)
    beside.mkdir(exist_ok=True)
    job.workdir.mkdir()
    variables |= {"W": str(job.workdir), "S": str(beside)}
    process = job.start(prefix=(*NAMESPACE, "sh", "-c", script, "sh"), **variables)
    process.wait(timeout=PATIENCE)
    job.workdir.rmdir()
    beside.rename(job.workdir)
    return process


def disk_full(job: Job, rng: random.Random) -> bool:
    """Room for what is there and a part of a checkpoint more."""
    used = disk_use(job.workdir) if job.workdir.exists() else 0
    newest = job.checkpoints()[-1] if job.checkpoints() else None
    room = disk_use(newest) * rng.uniform(0.3, 1.5) if newest else job.expected.size * rng.uniform(0.4, 0.6)
    process = confined(job, FULL_DISK, K=str(int((used + room) / 1024)))
    return ends_or_was_through(job, process, "o space left on device")


def disk_read_only(job: Job, rng: random.Random) -> bool:
    process = confined(job, READ_ONLY, STEP=str(job.step() + rng.randint(1, 3)))
    return ends_or_was_through(job, process, "ead-only file system")


def clocks_and_order_changed(job: Job, rng: random.Random) -> bool:
    """Between two processes every video is written anew, in another order, and dated anywhere from 1980 to 2040."""
    videos = sorted(pathlib.Path(job.config.data.videos).iterdir())
    rng.shuffle(videos)
    for video in videos:
        content, stamp = video.read_bytes(), rng.uniform(3.2e8, 2.2e9)
        video.unlink()
        video.write_bytes(content)
        os.utime(video, (stamp, stamp))
    return killed_while_stepping(job, rng)


FAULTS = {
    "SIGKILL while decoding": killed_while_decoding,
    "SIGKILL while stepping": killed_while_stepping,
    "SIGKILL while saving": killed_while_saving,
    "SIGKILL while evaluating": killed_while_evaluating,
    "SIGKILL of --mode=evaluate": evaluation_killed,
    "SIGTERM while stepping": terminated_while_stepping,
    "SIGTERM while evaluating": terminated_while_evaluating,
    "Ctrl-C while decoding": interrupted_while_decoding,
    "Ctrl-C while stepping": interrupted_while_stepping,
    "started twice": started_twice,
    "SIGKILL of launch/local.py": launcher_killed,
    "worker process killed": worker_killed,
    "video vanishes": video_vanishes,
    "video turns corrupt": video_turns_corrupt,
    "newest checkpoint cut short": newest_checkpoint_cut,
    "disk full": disk_full,
    "disk turns read-only": disk_read_only,
    "clocks and file order changed": clocks_and_order_changed,
}


def campaign(expected: Undisturbed, folder: pathlib.Path, faults: list[str], rng: random.Random) -> dict[str, list]:
    """{fault: [tried, survived, lost]} of faults one after the other; a job at its end makes way for a new one."""
    table = {name: [0, 0, 0] for name in faults}
    job, met = None, []

    def close(job: Job) -> None:
        try:
            job.finish()
        except AssertionError as error:
            print(f"lost at the end of a job: {error}", file=sys.stderr)
            for name in met:
                table[name][1] -= 1
                table[name][2] += 1
        met.clear()

    waiting, number = list(faults), 0
    while waiting:
        if job is None or job.done:
            if job is not None:
                close(job)
            number += 1
            job = Job(expected, folder / f"job{number}")
        name, begin = waiting.pop(0), time.monotonic()
        try:
            happened = FAULTS[name](job, rng)
            if not happened and not job.done:  # there was nothing to damage yet
                killed_while_stepping(job, rng)
            job.check()
        except AssertionError as error:
            table[name][0] += 1
            table[name][2] += 1
            print(f"{name}: LOST: {error}", file=sys.stderr)
            job = None
            met.clear()
            continue
        if not happened:  # or the run was over before
            waiting.insert(min(len(waiting), 1), name)
            continue
        table[name][0] += 1
        table[name][1] += 1
        met.append(name)
        print(f"{name}: {time.monotonic() - begin:.0f} s, step {job.step()}", file=sys.stderr)
    if job is not None:
        close(job)
    return table
