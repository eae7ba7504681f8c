#!/usr/bin/env bash
# Trains (or evaluates) on all workers of a Cloud TPU VM slice, from your own machine.
#
#   export TPU_NAME=my-slice ZONE=us-west4-a                 # PROJECT too, if it is not gcloud's default
#   launch/tpu_vm.sh setup                                   # copies the last commit to every worker and installs it
#   launch/tpu_vm.sh start --config=configs/thumos_vitg.py --workdir=/mnt/shared/runs/vitg
#   launch/tpu_vm.sh logs                                    # follows worker 0; WORKER=all follows all
#   launch/tpu_vm.sh stop                                    # saves, then stops
#   launch/tpu_vm.sh resume                                  # goes on with the flags of the last start
#
# Every flag behind `start` goes to tadjax.main. The workers find each other by the slice's metadata
# (tadjax/parallel/cluster.py). Workdir and data must lie on a file system that all workers mount (Filestore, Lustre).
# PYTHON (python3) names the workers' interpreter, 3.11 or newer.
#
# On every worker a loop runs the training again whenever it ends without having finished: when a worker failed, all
# others end within the heartbeat's timeout, and all begin again from the newest checkpoint. An error that a new try
# would only repeat (exit status 2: config, data, weights) ends the loop. Where the machines themselves are taken
# (pre-emption, maintenance), SIGTERM saves first; once the slice is back, `setup` if it is a new one, and `resume`.

set -euo pipefail
readonly DIRECTORY=tadjax # on the workers, in the home directory
readonly SAVED=75 RETRY_SECONDS=30

usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

gcloud_tpu() {
    local command=$1
    shift
    gcloud compute tpus tpu-vm "$command" --zone="${ZONE:?set ZONE to the zone of the slice}" \
        ${PROJECT:+--project="$PROJECT"} "$@"
}

on_workers() { # on_workers WORKER COMMAND
    gcloud_tpu ssh "${TPU_NAME:?set TPU_NAME to the name of the slice}" --worker="$1" --command="$2"
}

setup() {
    local archive
    archive=$(mktemp --suffix=.tar.gz)
    git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
    gcloud_tpu scp "$archive" "${TPU_NAME:?set TPU_NAME to the name of the slice}:tadjax.tar.gz" --worker=all
    rm "$archive"
    on_workers all "mkdir -p $DIRECTORY && tar xzf tadjax.tar.gz -C $DIRECTORY && cd $DIRECTORY &&
        ${PYTHON:-python3} -m venv .venv && .venv/bin/pip install --quiet -r requirements.txt 'jax[tpu]'"
}

start() {
    [ $# -gt 0 ] || usage
    on_workers all "cd $DIRECTORY && echo $(printf '%q' "$(printf '%q ' "$@")") > launch.flags"
    resume
}

resume() {
    on_workers all "cd $DIRECTORY && { ! kill -0 \$(cat launch.pid) 2>/dev/null || { echo 'already running'; exit 1; }; } &&
        eval \"set -- \$(cat launch.flags)\" &&
        { nohup launch/tpu_vm.sh work \"\$@\" >> launch.log 2>&1 < /dev/null & echo \$! > launch.pid; }"
}

stop() {
    on_workers all "cd $DIRECTORY && kill -TERM \$(cat launch.pid)"
}

logs() {
    on_workers "${WORKER:-0}" "tail -n 100 -F $DIRECTORY/launch.log"
}

# What runs on a worker, from its copy of this script: tadjax.main until it has finished or is stopped.
work() {
    local stopping="" child status
    trap 'stopping=yes; kill -TERM "$child" 2>/dev/null || true' TERM
    while true; do
        .venv/bin/python -u -m tadjax.main --sigterm_status="$SAVED" "$@" &
        child=$!
        while true; do
            status=0
            wait "$child" || status=$?
            kill -0 "$child" 2>/dev/null || break # otherwise a signal ended the waiting, not the training
        done
        echo "$(date -u) ended with status $status"
        if [ "$status" -eq 0 ] || [ "$status" -eq 2 ] || [ -n "$stopping" ]; then
            exit "$status"
        fi
        sleep "$RETRY_SECONDS"
    done
}

case "${1:-}" in
    setup | start | resume | stop | logs | work) "$@" ;;
    *) usage ;;
esac
