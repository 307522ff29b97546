#!/usr/bin/env bash
# ACDC, from its archive to predictions of the test patients and their row in the table, on one machine. README.md
# beside this file explains each step.
#
#   run.sh SOURCE [WORK]
#
# SOURCE  ACDC's archive, or the folder that it unpacks to (training/patient001/...)
# WORK    where everything goes; default ./acdc. Run again, it goes on where it stopped; run with another TRAINER, it
#         adds a row to the table.
#
# Settings, from the environment: TRAINER (nnUNetTrainerSelfReg), CONFIGURATION (2d), FOLDS ("0 1 2 3 4"), DEVICE (cuda).
# With ALLOW_INCOMPLETE=1 patients may be missing; the table then says so. With SMALL=1 nnU-Net plans a network for 0.05
# GB instead of 8, which two CPU cores can train.
set -euo pipefail
examples=$(cd "$(dirname "$0")/.." && pwd)
source=${1:?usage: run.sh SOURCE [WORK]}
work=$(mkdir -p "${2:-acdc}" && cd "${2:-acdc}" && pwd)
trainer=${TRAINER:-nnUNetTrainerSelfReg}
configuration=${CONFIGURATION:-2d}
folds=${FOLDS:-0 1 2 3 4}
device=${DEVICE:-cuda}
converting=()
if [ -n "${ALLOW_INCOMPLETE:-}" ]; then converting=(--allow-incomplete); fi
plans=nnUNetPlans
planning=()
if [ -n "${SMALL:-}" ]; then
    plans=nnUNetPlansSmall
    planning=(-gpu_memory_target 0.05 -overwrite_plans_name "$plans")
fi

export nnUNet_raw=$work/nnUNet_raw nnUNet_preprocessed=$work/nnUNet_preprocessed nnUNet_results=$work/nnUNet_results
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
raw=$nnUNet_raw/Dataset027_ACDC
row=${trainer}__${plans}__$configuration
model=$nnUNet_results/Dataset027_ACDC/$row

# 1. the raw data set, with the benchmark's split and folds by patient
if [ ! -d "$raw" ]; then
    nnUNetv2_selfreg convert acdc "$source" ${converting[@]+"${converting[@]}"}
fi

# 2. plan and preprocess; the planner takes nnUNet_n_proc_DA, where it is set, for a number of threads and fails with 0
if [ ! -f "$work/${plans}_${configuration}_is_complete" ]; then
    env -u nnUNet_n_proc_DA nnUNetv2_plan_and_preprocess -d 27 -c "$configuration" ${planning[@]+"${planning[@]}"}
    touch "$work/${plans}_${configuration}_is_complete"
fi

# 3. train each fold, or go on with it
for fold in $folds; do
    if [ ! -f "$model/fold_$fold/validation/summary.json" ]; then
        resume=$(python3 "$examples/resume.py" "$model/fold_$fold")
        # shellcheck disable=SC2086 # nothing, or --c
        nnUNetv2_train 027 "$configuration" "$fold" -tr "$trainer" -p "$plans" -device "$device" $resume
    fi
done

# 4. predict the test patients with the ensemble of the folds
predictions=$work/predictions/${row}__folds_${folds// /_}
if [ ! -f "$predictions/is_complete" ]; then
    # shellcheck disable=SC2086 # several folds are several words
    nnUNetv2_predict -d 27 -c "$configuration" -f $folds -tr "$trainer" -p "$plans" -device "$device" \
        -i "$raw/imagesTs" -o "$predictions"
    touch "$predictions/is_complete"
fi

# 5. score them
# shellcheck disable=SC2086
nnUNetv2_selfreg leaderboard score acdc "$predictions" "$raw/labelsTs" --dataset-json "$raw/dataset.json" \
    --model "$model" --folds $folds -o "$work/results/$row.csv" --overwrite

# 6. the table: every trainer that was scored so far, and the published numbers
nnUNetv2_selfreg leaderboard table "$work/results"
awk '/^\|/ { gsub(/\\/, ""); print; rows = 1; next } rows { exit }' "$work/results/table.md" # the first of its tables
