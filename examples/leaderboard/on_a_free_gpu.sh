#!/usr/bin/env bash
# Runs a command on the first of the GPUs named in GPUS ("0 1 2 3") that no other command of this script holds, and waits
# while there is none. Without GPUS the command sees what it always sees.
set -euo pipefail
if [ -z "${GPUS:-}" ]; then exec "$@"; fi
while true; do
    for gpu in $GPUS; do
        exec 9>"${TMPDIR:-/tmp}/selfreg_leaderboard_${UID}_gpu_$gpu.lock"
        if flock -n 9; then CUDA_VISIBLE_DEVICES=$gpu exec "$@"; fi # the command keeps the lock until it ends
    done
    sleep 1
done
