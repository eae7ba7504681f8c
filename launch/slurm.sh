#!/usr/bin/env bash
# Trains (or evaluates) on several GPU nodes under SLURM: one process a node, with all its GPUs.
#
#   sbatch launch/slurm.sh --config=configs/thumos_vitg.py --workdir=runs/vitg --config.optim.batch_size=16
#   sbatch --nodes=4 --gpus-per-node=4 launch/slurm.sh --config=... --workdir=...
#
# Submit it from the checkout's root. Every flag behind the script's name goes to tadjax.main; those before it go to
# SLURM and override the lines below. The nodes find each other by SLURM's variables (tadjax/parallel/cluster.py). The
# workdir and the data must lie on a file system that all nodes share. PYTHON names another interpreter
# (PYTHON=/path/to/.venv/bin/python sbatch ...).
#
# Pre-emption and the time limit: SLURM sends SIGTERM (300 s before the limit), all processes save after the same step
# and exit with status 75, and this script puts the job back into the queue, where it resumes from that step. A node
# that fails is SLURM's own reason to requeue. Any other status is an error and ends the job.
#
#SBATCH --job-name=tadjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -uo pipefail
readonly SAVED=75

if [ $# -eq 0 ]; then
    echo "usage: sbatch $0 --config=FILE --workdir=DIR [any flag of tadjax.main]" >&2
    exit 2
fi

# srun, in the background, gets SLURM's signals on its own; this shell must outlive them to ask for the requeue.
trap 'true' TERM
srun --kill-on-bad-exit=0 "${PYTHON:-python}" -u -m tadjax.main --sigterm_status="$SAVED" "$@" &
step=$!
while true; do
    wait "$step"
    status=$?
    kill -0 "$step" 2>/dev/null || break # otherwise it was a signal that ended the waiting
done

if [ "$status" -eq "$SAVED" ]; then
    echo "saved after SIGTERM; back into the queue"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
