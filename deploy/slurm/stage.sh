#!/bin/bash
# One task of an array: the stage in line SLURM_ARRAY_TASK_ID + 1 of the file STAGES, by the command that follows it.
#   stage.sh STAGES COMMAND...
# A stage that is killed by something other than its scheduler (a reset device, the kernel) is queued again, twice at
# most. What the scheduler itself stops (scancel, preemption, a requeue, its time limit) is the scheduler's to queue again.
set -u
readonly most_restarts=2
stage=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$1")
shift
told=
"$@" "$stage" &
child=$!
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
status=$?
while [ -n "$told" ] && kill -0 "$child" 2>/dev/null; do
  wait "$child"
  status=$?
done
if [ -z "$told" ] && [ "$status" -gt 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$most_restarts" ]; then
  echo "$stage ended with status $status and is queued again" >&2
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
