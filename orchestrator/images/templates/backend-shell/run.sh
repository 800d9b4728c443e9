#!/bin/sh
# @NAME@: times reading all weights once for each token of the batch, which any engine has to do. Put yours in its place.
set -eu
. "$(dirname "$0")/contract.sh"

if [ "$(ask .parameters.backend)" != @NAME@ ]; then
    refuse unsupported '"backend"' 3 "this image has no such backend" "ask for @NAME@"
fi
if [ "$(ask '.parameters.options // {} | length')" != 0 ]; then bad_request "@NAME@ has no options"; fi

checkpoint=$(ask .inputs.checkpoint)
tokens=$(ask '.parameters.generate_tokens // 128')

# generate TOKENS: your engine generates so many tokens after each prompt of the batch.
generate() {
    left=$1
    while [ "$left" -gt 0 ]; do
        cat "$checkpoint"/*.safetensors > "$work/read"
        left=$((left - 1))
    done
}

started=$(date +%s.%N)
generate 1
load_seconds=$(seconds_since "$started")

for batch in $(ask '.parameters.batch_sizes // [1, 8] | .[]'); do
    for run in $(seq "$(ask '.parameters.warmup // 1')"); do generate "$tokens"; done
    for run in $(seq "$(ask '.parameters.repeats // 6')"); do
        started=$(date +%s.%N)
        generate 1
        first=$(seconds_since "$started")
        started=$(date +%s.%N)
        generate "$tokens"
        jq -n --argjson first "$first" --argjson all "$(seconds_since "$started")" '{first: $first, all: $all}'
    done | jq -s --argjson batch "$batch" --slurpfile request "$work/request" \
        '($request[0].parameters.prompt_tokens // 128) as $prompt
         | ($request[0].parameters.generate_tokens // 128) as $tokens
         | def median: sort | .[length / 2 | floor];
           {batch_size: $batch, samples: map($batch * $tokens / .all),
            decode_tokens_per_second: (map($batch * $tokens / .all) | median),
            prefill_tokens_per_second: (map($batch * $prompt / .first) | median)}'
done | jq -s . > "$work/speeds"

jq -n --slurpfile request "$work/request" --slurpfile speeds "$work/speeds" --argjson load "$load_seconds" \
    --argjson memory "$(peak_memory)" \
    '{operation: "benchmark", backend: "@NAME@", protocol: "say here how this was timed", speeds: $speeds[0],
      load_seconds: $load, memory: $memory, dtype: ($request[0].parameters.dtype // "float32"),
      dtype_reason: "nothing is computed"}' > "$work/result"
answer
