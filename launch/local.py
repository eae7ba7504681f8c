"""N processes of tadjax.main on this machine, as N hosts would run it: the multi-host path without the hosts.

python launch/local.py --processes=2 --config=configs/demo.py --workdir=runs/two     # any flag of tadjax.main

--processes=2   how many
--devices=1     CPU devices of each (JAX_PLATFORMS=cpu)
--gpus=0        GPUs of each instead: process 0 gets the first ones, process 1 the next, ...

Each line that a process prints comes out with its number in front. SIGTERM and Ctrl-C go to all processes: they save
and end, and the same command resumes, also with another number of processes (a batch must still divide by it). Kill
one, and the others end by themselves; kill this launcher, and all of them do. The exit status is that of the first
process that failed; 75 after SIGTERM, 130 after Ctrl-C.
"""

import argparse
import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from typing import IO

ROOT = pathlib.Path(__file__).resolve().parents[1]
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before a fork
SIGTERM_STATUS = 75  # EX_TEMPFAIL: try again


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0)
    options, flags = parser.parse_known_args(argv)
    address = f"localhost:{free_port()}"
    processes: list[subprocess.Popen] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: forward(received, processes))
    processes += [start(index, address, options, flags) for index in range(options.processes)]
    relays = [threading.Thread(target=relay, args=(index, p.stdout)) for index, p in enumerate(processes)]
    for thread in relays:
        thread.start()
    return wait(processes, relays)


def start(index: int, address: str, options: argparse.Namespace, flags: list[str]) -> subprocess.Popen:
    """Process `index`, in a session of its own, so that Ctrl-C reaches it once, from here."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TADJAX_ENDS_WITH": str(os.getpid())}
    if options.gpus:
        first = index * options.gpus
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(first, first + options.gpus)))
    else:
        environment.update(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(options.devices))
    command = [sys.executable, "-m", "tadjax.main", f"--sigterm_status={SIGTERM_STATUS}", *flags]
    command += [f"--coordinator={address}", f"--num_processes={options.processes}", f"--process_id={index}"]
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    print(f"[{index}] process {process.pid}", flush=True)
    return process


def end_with_parent() -> None:
    """Linux kills this process when its parent ends; elsewhere tadjax.main looks for that itself, once a second."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def forward(number: int, processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def relay(index: int, output: IO[bytes]) -> None:
    for line in output:
        sys.stdout.write(f"[{index}] {line.decode(errors='replace')}")
        sys.stdout.flush()


def wait(processes: list[subprocess.Popen], relays: list[threading.Thread]) -> int:
    """Until all have ended; the status of the first that failed, as a shell counts it."""
    failed = 0
    running = dict(enumerate(processes))
    while running:
        for index, process in list(running.items()):
            try:
                status = process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            del running[index]
            failed = failed or (status if status >= 0 else 128 - status)
            if status:
                print(f"[{index}] ended with status {status}", flush=True)
    for thread in relays:
        thread.join()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
