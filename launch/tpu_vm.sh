#!/bin/bash
# A run on a TPU VM or a slice of them, made for it by gcloud.
#
#   cotjax launch tpu-vm --config run.toml --topology v6e:4x4 --zone us-east5-b --bucket gs://my-runs
#
# fills this file in and runs it; --dry-run shows it. As it lies here, it is a small run on v5e:4x4.
# This is the older way: Google no longer develops the Cloud TPU API, queued resources
# (QUEUED=yes, which waits for free chips) included, and it has no TPU7x. GKE is the newer one.
#
# Requires  gcloud, logged in, with a project whose quota has these chips in ZONE; run it in a
#           checkout of cotjax, which goes to the VMs with your config, data and code. The bucket
#           exists, with --enable-hierarchical-namespace.
# Expect    a VM per 4 chips (8 where a slice is one host) in minutes, packages in two more, then
#           every host's lines; the run in BUCKET/runs/RUN. Run again, it resumes. The VMs stay
#           until the command of its last line is run: they cost money until then.
set -euo pipefail

NAME=cotjax # of the VMs
RUN=cotjax  # folder of the run
ZONE=us-west4-a
ACCELERATOR=v5litepod-16
RUNTIME=v2-alpha-tpuv5-lite
SLICES=1
HOSTS=4 # of all slices; others are an error
SPOT=no
QUEUED=no # yes: wait in the queue; several slices need it
CONFIG=configs/tiny_grpo.toml
BUCKET=my-runs     # without gs://
OUTPUT=bucket/runs # in it, mounted as the folder bucket
CACHE=bucket/xla   # of compiled programs, one for all hosts and runs
FLAGS=() # further ones of cotjax train

tpu() { gcloud compute tpus "$@" --zone="$ZONE"; }
more=()
if [ "$SPOT" = yes ]; then more+=(--spot); fi
nodes=("$NAME")
if [ "$SLICES" -gt 1 ]; then
  nodes=()
  for ((slice = 0; slice < SLICES; slice++)); do nodes+=("$NAME-$slice"); done
fi

delete="gcloud compute tpus tpu-vm delete $NAME --zone=$ZONE"
if [ "$QUEUED" = yes ]; then
  delete="gcloud compute tpus queued-resources delete $NAME --force --zone=$ZONE"
  if ! tpu queued-resources describe "$NAME" >/dev/null 2>&1; then
    where=(--node-id="$NAME")
    if [ "$SLICES" -gt 1 ]; then where=(--node-count="$SLICES" --node-prefix="$NAME"); fi
    tpu queued-resources create "$NAME" "${where[@]}" --accelerator-type="$ACCELERATOR" \
      --runtime-version="$RUNTIME" "${more[@]}"
  fi
  while true; do
    state=$(tpu queued-resources describe "$NAME" --format='value(state.state)')
    case "$state" in
    ACTIVE) break ;;
    FAILED | DELETING | SUSPENDING | SUSPENDED)
      echo "$NAME: the request is $state. Delete it and run this again: $delete" >&2
      exit 1
      ;;
    esac
    echo "$NAME: waits for $SLICES x $ACCELERATOR in $ZONE ($state)"
    sleep 60
  done
elif state=$(tpu tpu-vm describe "$NAME" --format='value(state)' 2>/dev/null); then
  if [ "$state" != READY ]; then # as a spot VM that was taken away
    echo "$NAME: the VMs are $state. Delete them and run this again: $delete" >&2
    exit 1
  fi
  echo "$NAME: the VMs are there"
else
  tpu tpu-vm create "$NAME" --accelerator-type="$ACCELERATOR" --version="$RUNTIME" "${more[@]}"
fi

archive=$(mktemp -d)/cotjax.tar.gz
tar --exclude=./.git --exclude=./runs -czf "$archive" .

# What every host does. The $ in single quotes is the host's.
# shellcheck disable=SC2016
script='set -e
mkdir -p job bucket && tar -xzf cotjax.tar.gz -C job
command -v gcsfuse >/dev/null || {
  key=/usr/share/keyrings/cloud.google.asc
  curl -s https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee $key >/dev/null
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A new VM updates itself at first, and holds the lock.
  sudo apt-get -o DPkg::Lock::Timeout=600 update -q
  sudo apt-get -o DPkg::Lock::Timeout=600 install -qy gcsfuse
}
mountpoint -q bucket ||
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=100000 "$BUCKET" bucket
command -v uv >/dev/null || { curl -LsSf https://astral.sh/uv/install.sh | sh; }
export PATH="$HOME/.local/bin:$PATH" JAX_COMPILATION_CACHE_DIR="$PWD/$CACHE"
uv venv -q --allow-existing --python 3.12 env
uv pip install -q --python env/bin/python -e "job[tpu]"
if [ -f "$OUTPUT/$RUN/config.toml" ]; then set -- "$@" --resume; fi
cd job && exec ../env/bin/python -m cotjax.train "$@"'
arguments=(--config "$CONFIG" --output="../$OUTPUT" --name="$RUN" "${FLAGS[@]}")
settings="$(declare -p BUCKET OUTPUT CACHE RUN); export JAX_NUM_PROCESSES=$HOSTS"
command="$settings; set -- $(printf '%q ' "${arguments[@]}"); $script"

started=()
for node in "${nodes[@]}"; do
  tpu tpu-vm scp "$archive" "$node:cotjax.tar.gz" --worker=all
done
for node in "${nodes[@]}"; do
  tpu tpu-vm ssh "$node" --worker=all --command="$command" &
  started+=($!)
done
status=0
for process in "${started[@]}"; do wait "$process" || status=$?; done

echo "To end the cost: $delete"
exit "$status"
