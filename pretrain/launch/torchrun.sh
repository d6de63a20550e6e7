#!/bin/bash
# A pretraining on machines without a scheduler; they may come and go. The same line on each of them:
#
#   bash torchrun.sh HOST:29500 1:4 pretrain/multi_gpu_vit_base.yaml data.shards=/shared/shards out=/shared/runs/vit-base
#
# HOST is one of them, which has to stay; 1:4 is how many machines it needs and may use. NPROC is how many processes a
# machine has, by default one a GPU, and those of data.divisor are to be a multiple of all of them.
endpoint=$1 machines=$2
exec python -m pretrain.launch --nnodes "$machines" --nproc-per-node "${NPROC:-gpu}" --max-restarts 100 \
  --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id specfm --rdzv-conf "${RDZV:-}" "${@:3}" --resume
