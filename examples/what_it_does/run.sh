#!/usr/bin/env bash
# A short training on Hippocampus, and what the terms did in it: results.json, and the plots of the page.
#
#   run.sh SOURCE WORK
#
# SOURCE  nnU-Net's Dataset004_Hippocampus (imagesTr, labelsTr, dataset.json)
# WORK    where everything goes; run again, it goes on where it stopped
set -euo pipefail
source=${1:?usage: run.sh SOURCE WORK}
work=$(mkdir -p "${2:?usage: run.sh SOURCE WORK}" && cd "$2" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
export nnUNet_raw=$work/nnUNet_raw nnUNet_preprocessed=$work/nnUNet_preprocessed nnUNet_results=$work/nnUNet_results
export nnUNet_extTrainer=$here/trainers
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
dataset=Dataset004_Hippocampus trainer=nnUNetTrainerSelfRegKept

if [ ! -f "$work/planned" ]; then
    cp -rT "$source" "$nnUNet_raw/$dataset"
    env -u nnUNet_n_proc_DA nnUNetv2_plan_and_preprocess -d 4 -c 2d -np 2 -gpu_memory_target 0.05 -overwrite_plans_name Small
    # half as wide: a core trains it in minutes
    python - "$nnUNet_preprocessed/$dataset/Small.json" <<'END'
import json, sys
plans = json.load(open(sys.argv[1]))
plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [16, 32, 64, 128]
json.dump(plans, open(sys.argv[1], "w"), indent=4)
END
    touch "$work/planned"
fi
model=$nnUNet_results/$dataset/${trainer}__Small__2d
[ -f "$model/fold_0/checkpoint_final.pth" ] ||
    nnUNet_n_proc_DA=0 nnUNetv2_train 4 2d 0 -tr $trainer -p Small -device cpu --c
python "$here/measure.py" "$model" "$nnUNet_raw/$dataset" --output "$here/results.json"
python "$here/plots.py" "$here/results.json" "$here/../../documentation/pictures/what_it_does"
