# Contract version 1 in sh, jq and coreutils: reads the request, refuses what must be refused, gives the answer.
# `run.sh` reads this file, and then does the work. Nothing in here is about a method or a backend.

here=$(dirname "$0")
work=$(mktemp -d)
began=$(date +%s.%N)
output=

# finish STATUS: the final event lies in $work/final; it goes to result.json and to stdout, as one line.
finish() {
    if [ -n "$output" ]; then
        cp "$work/final" "$output/.result.json"
        mv "$output/.result.json" "$output/result.json"
    fi
    cat "$work/final"
    rm -rf "$work"
    exit "$1"
}

# refuse CODE REASON STATUS MESSAGE HINT: REASON is null unless CODE is unsupported.
refuse() {
    jq -c --arg code "$1" --argjson reason "$2" --arg message "$4" --arg hint "$5" \
        '{event: "error", contract: 1, id: (.id | if type == "string" then . else null end),
          code: $code, reason: $reason, message: $message, hint: $hint}' "$work/request" > "$work/final"
    finish "$3"
}

bad_request() {
    refuse bad_request null 2 "$1" "compare the request with docs/contract.md"
}

# ask FILTER: what jq finds in the request.
ask() {
    jq -r "$1" "$work/request"
}

# seconds_since MOMENT, where MOMENT is from `date +%s.%N`.
seconds_since() {
    jq -n "[$(date +%s.%N) - $1, 0.000001] | max"
}

# answer: the result lies in $work/result.
answer() {
    jq -c -n --slurpfile request "$work/request" --slurpfile result "$work/result" \
        --argjson seconds "$(seconds_since "$began")" --argjson threads "$(nproc)" --arg platform "$(uname -sm)" \
        '{event: "result", contract: 1, id: $request[0].id, result: $result[0], wall_seconds: $seconds,
          environment: {harness_digest: "none", python: "none", platform: $platform, device_kind: "cpu",
                        device_model: "cpu", threads: $threads, libraries: {}}}' > "$work/final"
    finish 0
}

# peak_memory: what the largest process so far held, as the contract wants it.
peak_memory() {
    awk '/VmHWM/ {printf "{\"peak_memory_bytes\": %d, \"method\": \"peak-rss\"}", $2 * 1024}' "/proc/$$/status"
}

cat > "$work/request"
if ! jq -e -s 'length == 1 and (.[0] | type == "object")' "$work/request" > "$work/checked" 2> "$work/why"; then
    echo '{}' > "$work/request"
    bad_request "the request is not one JSON object"
fi
given=$(ask '.output? // "" | strings')
if [ -d "$given" ]; then output=$given; fi
if [ "$(ask '.contract == 1')" != true ]; then bad_request "this is contract 1"; fi
operation=$(ask '.operation | strings')
case $operation in
    describe) fields='["contract", "id", "operation"]' ;;
    fetch | compress | export | evaluate | profile | benchmark)
        fields='["contract", "id", "operation", "device", "inputs", "output", "parameters"]' ;;
    *) bad_request "there is no such operation" ;;
esac
unknown=$(ask "keys - $fields | first // \"\"")
if [ -n "$unknown" ]; then bad_request "unknown field $unknown"; fi
jq -c '{event: "started", id, operation}' "$work/request"
if [ "$operation" = describe ]; then
    jq '{operation: "describe", image: .}' "$here/image.json" > "$work/result"
    answer
fi
if ! jq -e --arg operation "$operation" '.operations | index([$operation])' "$here/image.json" > "$work/checked"; then
    refuse unsupported '"operation"' 3 "this image does not $operation" "ask it for what image.json lists"
fi
