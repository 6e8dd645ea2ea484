#!/usr/bin/env bash
# One start of a training run inside a SLURM job, and whether the job is to be started again. Called by the batch files
# beside it with the options of `robustseg train`. Variables that change it:
#   ROBUSTSEG_RUNS   where runs are kept, "runs" by default
#   STRATEGY         ddp by default, or fsdp2
#   MAX_CRASHES      how often a job that crashed is started again, 10 by default
set -uo pipefail

runs=${ROBUSTSEG_RUNS:-runs}
# The tasks of a job array are runs of their own.
name=$SLURM_JOB_NAME${SLURM_ARRAY_TASK_ID:+/$SLURM_ARRAY_TASK_ID}
starts=$runs/$name/starts.log

# Bits depend on the number of threads: it must not follow the CPUs of whatever node a start finds itself on.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
export MASTER_PORT=${MASTER_PORT:-$((12000 + SLURM_JOB_ID % 18000))}

log() {
  echo "$(date +%FT%T) job $SLURM_JOB_ID start ${SLURM_RESTART_COUNT:-0}: $*" | tee -a "$starts"
}

start_again() {
  log "$*, to be continued"
  scontrol requeue "$SLURM_JOB_ID" || log "cannot be requeued: submit the same command again to continue"
}

checkpoint() {
  find "$runs/$name" -name '*.ckpt' "$@" -print -quit
}

crashes() {
  grep " job $SLURM_JOB_ID start .*: crashed" "$starts"
}

# Until robustseg listens to these signals itself, a few seconds after its start, they would kill it. A task that fails
# is written down here: srun's status says little, since where one task fails the others are told to go.
# shellcheck disable=SC2016
task='trap "" USR1 TERM; "$@"; status=$?
case $status in 0 | 85) ;; *) echo "$status of task $SLURM_PROCID" >>"$FAILED_TASKS" ;; esac
exit $status'

mkdir -p "$runs/$name" || exit 1
export FAILED_TASKS=$runs/$name/failed_tasks
: >"$FAILED_TASKS"
log "on $SLURM_JOB_NODELIST"
# With --ckpt_path last the first start, which finds nothing there, begins the run, and all others continue it. The
# options after "$@" are the job's, whatever a configuration says.
# --cpus-per-task: since SLURM 22.05 srun does not take it from sbatch.
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c "$task" task \
  robustseg train "$@" --ckpt_path last --experiment "$name" --trainer.default_root_dir "$runs" \
  --trainer.strategy "${STRATEGY:-ddp}" --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "${SLURM_NTASKS_PER_NODE:-1}"
status=$?

failed="status $status"
[ -s "$FAILED_TASKS" ] && failed="status $(head -n 1 "$FAILED_TASKS")"
progress="after a checkpoint"
[ -n "$(checkpoint -newer "$starts")" ] || progress="before a checkpoint"
if [ "$status" = 0 ]; then
  log "done"
elif [ "$failed" = "status 85" ]; then
  # The tasks were told to go and have kept their state. After scancel this shell is no more: the job stays cancelled.
  start_again "interrupted"
# A crash is worth another start if that can get further.
elif [ -z "$(checkpoint)" ]; then
  log "$failed, and nothing to continue: not started again"
elif [ "$(crashes | wc -l)" -ge "${MAX_CRASHES:-10}" ]; then
  log "$failed once more: not started again"
elif [ "$progress" = "before a checkpoint" ] && crashes | tail -n 1 | grep -q "$progress"; then
  log "$failed $progress once more: not started again"
else
  start_again "crashed with $failed $progress"
fi
exit "$status"
