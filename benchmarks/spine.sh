#!/usr/bin/env bash
# Times the main job from a fresh clone: cold (all installs), environments warm, and with nothing to do.
# Usage: benchmarks/spine.sh [process|docker]     prints three figures in seconds
set -euo pipefail
runtime=${1:-process}
project=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
data=${LLMCBENCH_DATA-}
git clone --quiet "$project" "$work/project"
cd "$work/project"
export UV_CACHE_DIR="$work/uv" PIP_CACHE_DIR="$work/pip" LLMCBENCH_DATA="$data"

seconds() {
  local begin=$EPOCHREALTIME
  "$@" >"$work/out.txt" 2>"$work/err.txt" || { tail -n 40 "$work/err.txt" >&2; exit 1; }
  awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f\n", b - a }'
}

echo "runtime $runtime, $(nproc) threads, $(date -u +%F)"
echo "cold:          $(seconds make bench RUNTIME="$runtime") s"
rm -rf .llmcbench/stages .llmcbench/artifacts .llmcbench/runs
echo "warm:          $(seconds make bench RUNTIME="$runtime") s"
echo "nothing to do: $(seconds make bench RUNTIME="$runtime") s"
