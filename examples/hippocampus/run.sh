#!/usr/bin/env bash
# From the Decathlon's Task04_Hippocampus to evaluated predictions. README.md beside this file explains each step.
#
#   run.sh SOURCE [WORK]
#
# SOURCE  the folder Task04_Hippocampus as the Decathlon's archive unpacks, or nnU-Net's Dataset004_Hippocampus made
#         of it (imagesTr, labelsTr, dataset.json)
# WORK    where everything goes; default ./hippocampus. Run again, it goes on where it stopped.
#
# Settings, from the environment: TRAINER (nnUNetTrainerSelfReg_100epochs), CONFIGURATION (2d), DEVICE (cuda),
# MEMORY (GPU memory in GB that the network is planned for; nnU-Net's default is 8).
set -euo pipefail
source=${1:?usage: run.sh SOURCE [WORK]}
work=$(mkdir -p "${2:-hippocampus}" && cd "${2:-hippocampus}" && pwd)
trainer=${TRAINER:-nnUNetTrainerSelfReg_100epochs}
configuration=${CONFIGURATION:-2d}
device=${DEVICE:-cuda}
memory=${MEMORY:-8}

export nnUNet_raw=$work/nnUNet_raw nnUNet_preprocessed=$work/nnUNet_preprocessed nnUNet_results=$work/nnUNet_results
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
dataset=Dataset004_Hippocampus
plans=nnUNetPlans_${memory}GB

# 1. the raw data set
if [ ! -f "$nnUNet_raw/$dataset/dataset.json" ]; then
    if [ -d "$source/labelsTr" ] && ls "$source"/imagesTr/*_0000.nii.gz >/dev/null 2>&1; then
        cp -r "$source" "$nnUNet_raw/$dataset"
    else
        nnUNetv2_convert_MSD_dataset -i "$source" -np 2
    fi
fi

# 2. plan and preprocess
if [ ! -f "$nnUNet_preprocessed/$dataset/$plans.json" ]; then
    nnUNetv2_plan_and_preprocess -d 4 -c "$configuration" -gpu_memory_target "$memory" -overwrite_plans_name "$plans"
fi

# 3. train fold 0, or go on with it
model=$nnUNet_results/$dataset/${trainer}__${plans}__${configuration}
if [ ! -f "$model/fold_0/validation/summary.json" ]; then
    nnUNetv2_train 4 "$configuration" 0 -tr "$trainer" -p "$plans" -device "$device" --c
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
