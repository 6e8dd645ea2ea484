#!/usr/bin/env bash
# Training with torchrun: machines without a scheduler, or jobs of another one. From the repository's root, on one
# machine with four GPUs:
#
#   configs/slurm/torchrun.sh 4 --config experiment/camvid/pspnet_r50_segpgd3
#
# On two machines the same is run on each, with the first one's name and a free port of it:
#
#   NODES=2 ENDPOINT=first:29500 configs/slurm/torchrun.sh 4 --config ...
#
# STRATEGY=fsdp2 spreads gradients and optimiser over the processes; ddp by default.
#
# The same command continues the run. SIGTERM to torchrun reaches all processes: they save and leave, and torchrun ends
# with status 1, not 85. RESTARTS=3 lets torchrun itself start all processes again, from the newest checkpoint, when one
# has crashed.
set -euo pipefail

processes=${1:?number of processes on this machine}
shift
nodes=${NODES:-1}
if [ "$nodes" = 1 ]; then
  meeting=(--standalone)
else
  meeting=(--rdzv-backend=c10d --rdzv-id="${JOB:-robustseg}" --rdzv-endpoint="${ENDPOINT:?host:port of the first machine}")
fi
# Bits depend on the number of threads.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec torchrun "${meeting[@]}" --nnodes="$nodes" --nproc-per-node="$processes" --max-restarts="${RESTARTS:-0}" train.py \
  --ckpt_path last --trainer.strategy "${STRATEGY:-ddp}" --trainer.num_nodes "$nodes" --trainer.devices "$processes" "$@"
