#!/bin/bash
# One training on all machines of a TPU pod: NAME=my-pod ZONE=us-central2-b ./tpu-pod.sh
# WORK is an NFS folder (Filestore, for example) that is mounted on all machines.
set -euo pipefail

: "${NAME:?the name of the TPU}" "${ZONE:?its zone}"
WORK=${WORK:-/mnt/work}

# Runs on each machine, where JAX finds the others by the metadata of the TPU.
on_each="
set -e
pip install --quiet --user 'bncli[tpu]'
resume=
if [ -f $WORK/ckpt/config.json ]; then resume=--resume; fi
~/.local/bin/bncli train --distributed auto --data $WORK/imagenet --model resnet50 --image-size 224 \
    --precision bfloat16 --batch-size 4096 --epochs 90 --save-every 600s --out $WORK/ckpt \$resume
"

gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "$on_each"
