#!/bin/sh
# @NAME@: writes the checkpoint anew, unchanged. Put your program where it says so.
set -eu
. "$(dirname "$0")/contract.sh"

if [ "$(ask .parameters.method)" != @NAME@ ]; then
    refuse unsupported '"method"' 3 "this image has no such method" "ask for @NAME@"
fi
if [ "$(ask '.parameters.options // {} | length')" != 0 ]; then bad_request "@NAME@ has no options"; fi

checkpoint=$(ask .inputs.checkpoint)
artifact=$output/artifact
started=$(date +%s.%N)
cp -r "$checkpoint" "$artifact"
chmod -R u+w "$artifact"
load_seconds=$(seconds_since "$started")

started=$(date +%s.%N)
# Your program goes here. It finds the weights in "$artifact"/*.safetensors, the setting in
# $(ask .parameters.setting), the calibration text, one JSON object a line, in
# "$(ask .inputs.calibration)"/*.jsonl.gz, and changes the files in "$artifact".
compress_seconds=$(seconds_since "$started")

started=$(date +%s.%N)
find "$artifact" -type f ! -path "$artifact/llmcbench.json" | while read -r file; do
    jq -n --arg name "${file#"$artifact"/}" --arg sha256 "$(sha256sum < "$file" | cut -d ' ' -f 1)" \
        --argjson size "$(wc -c < "$file")" '{($name): {size_bytes: $size, sha256: $sha256}}'
done | jq -s add > "$work/files"
parent=$(sha256sum < "$checkpoint/llmcbench.json" | cut -d ' ' -f 1)
jq --arg parent "$parent" --slurpfile files "$work/files" --slurpfile request "$work/request" \
    '. + {files: $files[0], parent: $parent, method: "@NAME@", notes: [],
          setting: $request[0].parameters.setting.name, options: ($request[0].parameters.options // {})}' \
    "$checkpoint/llmcbench.json" > "$artifact/llmcbench.json"
jq -n --slurpfile artifact "$artifact/llmcbench.json" --argjson memory "$(peak_memory)" \
    --argjson load "$load_seconds" --argjson compress "$compress_seconds" \
    --argjson save "$(seconds_since "$started")" \
    '{operation: "compress", artifact: $artifact[0],
      cost: {load_seconds: $load, compress_seconds: $compress, save_seconds: $save, memory: $memory}}' > "$work/result"
answer
