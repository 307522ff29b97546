#!/usr/bin/env bash
# From the Decathlon's Task04_Hippocampus to evaluated predictions. README.md beside this file explains each step.
#
#   run.sh SOURCE [WORK]
#
# SOURCE  the folder Task04_Hippocampus as the Decathlon's archive unpacks, or nnU-Net's Dataset004_Hippocampus made
#         of it (imagesTr, labelsTr, dataset.json)
# WORK    where everything goes; default ./hippocampus. Run again, it goes on where it stopped.
#
# Settings, from the environment: TRAINER (nnUNetTrainerSelfReg_100epochs), CONFIGURATION (2d), DEVICE (cuda).
# With SMALL=1 nnU-Net plans a network for 0.05 GB instead of 8, which two CPU cores can train.
set -euo pipefail
examples=$(cd "$(dirname "$0")/.." && pwd)
source=${1:?usage: run.sh SOURCE [WORK]}
work=$(mkdir -p "${2:-hippocampus}" && cd "${2:-hippocampus}" && pwd)
trainer=${TRAINER:-nnUNetTrainerSelfReg_100epochs}
configuration=${CONFIGURATION:-2d}
device=${DEVICE:-cuda}
plans=nnUNetPlans
planning=()
if [ -n "${SMALL:-}" ]; then
    plans=nnUNetPlansSmall
    planning=(-gpu_memory_target 0.05 -overwrite_plans_name "$plans")
fi

export nnUNet_raw=$work/nnUNet_raw nnUNet_preprocessed=$work/nnUNet_preprocessed nnUNet_results=$work/nnUNet_results
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
dataset=Dataset004_Hippocampus

# 1. the raw data set
if [ ! -f "$work/raw_is_complete" ]; then
    if [ "$source" -ef "$nnUNet_raw/$dataset" ]; then
        echo "$source is where this script would put the raw data set; give another WORK" >&2
        exit 1
    fi
    if [ -f "$work/raw_is_begun" ]; then rm -rf "${nnUNet_raw:?}/$dataset"; fi # what a run that was stopped left
    touch "$work/raw_is_begun"
    if ls "$source"/imagesTr/*_0000.nii.gz >/dev/null 2>&1; then
        mkdir -p "$nnUNet_raw/$dataset"
        cp -r "$source"/. "$nnUNet_raw/$dataset"
    else
        nnUNetv2_convert_MSD_dataset -i "$source" -np 2
    fi
    touch "$work/raw_is_complete"
fi

# 2. plan and preprocess
if [ ! -f "$work/${plans}_${configuration}_is_complete" ]; then
    env -u nnUNet_n_proc_DA nnUNetv2_plan_and_preprocess -d 4 -c "$configuration" ${planning[@]+"${planning[@]}"}
    touch "$work/${plans}_${configuration}_is_complete"
fi

# 3. train fold 0, or go on with it
model=$nnUNet_results/$dataset/${trainer}__${plans}__${configuration}
if [ ! -f "$model/fold_0/validation/summary.json" ]; then
    resume=$(python3 "$examples/resume.py" "$model/fold_0")
    # shellcheck disable=SC2086 # nothing, or --c
    nnUNetv2_train 4 "$configuration" 0 -tr "$trainer" -p "$plans" -device "$device" $resume
fi

# 4. predict the cases that fold 0 did not train on
cases=$(python3 -c 'import json, sys; print(*json.load(open(sys.argv[1]))[0]["val"])' \
    "$nnUNet_preprocessed/$dataset/splits_final.json")
mkdir -p "$work/unseen"
for case in $cases; do cp "$nnUNet_raw/$dataset/imagesTr/${case}_0000.nii.gz" "$work/unseen"; done
nnUNetv2_predict -d 4 -c "$configuration" -f 0 -tr "$trainer" -p "$plans" -device "$device" \
    -i "$work/unseen" -o "$work/predictions"

# 5. evaluate them
nnUNetv2_evaluate_folder "$nnUNet_raw/$dataset/labelsTr" "$work/predictions" --chill \
    -djfile "$work/predictions/dataset.json" -pfile "$work/predictions/plans.json"
python3 - "$work/predictions/summary.json" <<'PYTHON'
import json, sys

summary = json.load(open(sys.argv[1]))
for label, name in (("1", "anterior"), ("2", "posterior")):
    print(f"Dice {name:<10} {summary['mean'][label]['Dice']:.4f}")
print(f"Dice mean       {summary['foreground_mean']['Dice']:.4f}   over {len(summary['metric_per_case'])} cases")
PYTHON
