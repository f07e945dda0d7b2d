#!/bin/bash
# A run on nodes with NVIDIA GPUs under Slurm: a process per GPU, which find each other by Slurm.
#
#   cotjax launch slurm --config run.toml --topology h100:16
#
# fills this file in and runs `sbatch` on it; --dry-run shows it. As it lies here, it is a small
# run on two nodes of eight; it takes whole nodes, also for fewer GPUs. Account and partition:
# SBATCH_ACCOUNT and SBATCH_PARTITION, which sbatch reads.
#
# Requires  a Python with `pip install "cotjax[cuda]"`, first on PATH where sbatch is run; a folder
#           that all nodes see, from which it is run. --bucket needs gcloud or aws on the node.
# Expect    NAME-JOB.log with "Process 0 of 16 (Slurm)" and the run's own lines, the run in
#           runs/NAME. Two minutes before its time is up the run is saved; `sbatch` again resumes.
#SBATCH --job-name=cotjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
set -euo pipefail

CONFIG=configs/tiny_grpo.toml
NAME=cotjax
OUTPUT=runs
BUCKET='' # gs:// or s3://: the run is copied there when it ends
FLAGS=()  # further ones of cotjax train

# Of compiled programs, one for all nodes and runs.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR-$PWD/$OUTPUT/.xla}"
# Of a GPU's memory, as plans count it; JAX takes 0.75 by itself.
if [ -z "${XLA_PYTHON_CLIENT_MEM_FRACTION-}" ]; then
  export XLA_CLIENT_MEM_FRACTION="${XLA_CLIENT_MEM_FRACTION:-.95}"
fi
if [ -f "$OUTPUT/$NAME/config.toml" ]; then FLAGS+=(--resume); fi
status=0
srun --kill-on-bad-exit=1 python -m cotjax.train --config "$CONFIG" \
  --output="$OUTPUT" --name="$NAME" "${FLAGS[@]}" || status=$?

case "$BUCKET" in
gs://*) gcloud storage rsync --recursive "$OUTPUT/$NAME" "$BUCKET/runs/$NAME" ;;
s3://*) aws s3 sync "$OUTPUT/$NAME" "$BUCKET/runs/$NAME" ;;
esac
exit "$status"
