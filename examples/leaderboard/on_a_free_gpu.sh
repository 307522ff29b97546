#!/usr/bin/env bash
# Runs a command on the first of the GPUs named in GPUS ("0 1 2 3") that no other command of this script holds, and waits
# while there is none. Without GPUS the command sees what it always sees. This script holds the GPU, not the command:
# workers that outlive a command that was killed would hold it for ever.
set -euo pipefail
if [ -z "${GPUS:-}" ]; then exec "$@"; fi
while true; do
    for gpu in $GPUS; do
        lock="${TMPDIR:-/tmp}/selfreg_leaderboard_${UID}_gpu_$gpu.lock" held=0 status=0
        exec 9>"$lock"
        flock -n 9 || held=$?
        if [ $held = 0 ]; then
            CUDA_VISIBLE_DEVICES=$gpu "$@" 9>&- || status=$?
            exit $status
        elif [ $held != 1 ]; then # no such program, or a folder that takes no locks
            echo "gpus: $lock cannot be locked; leave out gpus, or set TMPDIR to a folder of this machine" >&2
            exit 1
        fi
    done
    sleep 1
done
