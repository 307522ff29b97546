#!/usr/bin/env bash
# Checks this project on a machine with a GPU, and measures there what its pages say of CPUs: check.sh OUT
#
# Run it where this project is installed with its development tools (`pip install -e ".[dev]"`), from anywhere. It stops
# by itself after SECONDS_A_CALL (default 540, for machines that are lent in slices) and goes on where it stopped when it
# is called again, until it says that all is done. Each part leaves a file in OUT; delete one to run its part again.
# DEVICE=cpu tries the script without a GPU: the tests on CUDA are skipped then, and the cases are small.
set -euo pipefail
OUT=$(mkdir -p "${1:?usage: check.sh OUT}" && cd "$1" && pwd)
HERE=$(cd "$(dirname "$0")" && pwd)
DEVICE=${DEVICE:-cuda}
END=$((SECONDS + ${SECONDS_A_CALL:-540}))
CASES=$([ "$DEVICE" = cuda ] && echo "acdc-2d 128-3d" || echo "small-2d")
ROUNDS=$([ "$DEVICE" = cuda ] && echo 20 || echo 2)
cd "$HERE/../.."

# part FILE COMMAND...: runs a command whose output goes to OUT/FILE, unless that is there already
part() {
    local file=$1 left=$((END - SECONDS)) status=0
    shift
    if [ -e "$OUT/$file" ]; then
        echo "is there already: $file"
        return
    fi
    if [ "$left" -lt 20 ]; then
        echo "this call's time is over before $file: call again"
        exit 75
    fi
    echo "$file: $*"
    timeout "$left" "$@" >"$OUT/$file.partial" 2>&1 || status=$?
    if [ "$status" = 124 ]; then
        echo "$file was cut short by this call's end: call again, with a longer SECONDS_A_CALL if it is the same again"
        exit 75
    fi
    if [ "$status" != 0 ]; then
        tail -n 20 "$OUT/$file.partial"
        echo "$file failed with exit code $status; all that it printed is in $OUT/$file.partial"
        exit 1
    fi
    mv "$OUT/$file.partial" "$OUT/$file"
}

if [ "$DEVICE" = cuda ]; then # without one the tests on CUDA would be skipped, and count as done
    python -c 'import torch; torch.cuda.is_available() or exit("torch sees no GPU; DEVICE=cpu tries the script without")'
fi
part "tests_${DEVICE}_cuda.txt" python -m pytest tests/test_cuda.py -v -rs
part "tests_${DEVICE}_compile.txt" python -m pytest tests/test_compile.py -v
for case in $CASES; do
    for mode in eager compiled; do
        options=(--amp --cases "$case" --device "$DEVICE" --rounds "$ROUNDS" --output "$OUT/cost_${DEVICE}_${case}_$mode.json")
        [ "$mode" = eager ] || options+=(--compile)
        part "cost_${DEVICE}_${case}_$mode.txt" python examples/cost/measure.py "${options[@]}" --variants selfreg published
    done
done
part "training_$DEVICE.txt" python -m nnunetv2_selfreg.cli demo --folder "$OUT/demo_$DEVICE" --device "$DEVICE"
python examples/cost/cost_tables.py "$OUT/cost_$DEVICE"_*.json | tee "$OUT/tables_$DEVICE.md"
echo "all is done; put $OUT/cost_${DEVICE}_*.json into examples/cost/results, and examples/cost/cost_tables.py makes the page's rows"
