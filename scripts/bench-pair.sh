#!/usr/bin/env bash
# One migration between two processes, for a benchmark that runs other tools beside it:
#
#   scripts/bench-pair.sh SOURCE TARGET
#
# Both ends run until the tree is durable in its place. From the environment:
#   ME_SYNC_BIN      the binary (target/release/me-sync)
#   SND, RCV         words before the sender's and the receiver's command, such as `ip netns exec NAME`
#   SND_IP, RCV_IP   where the two ends listen (127.0.0.1)
#   STATE            a directory for their state; the same one again has warm hashes (a fresh one)
#   ME_SYNC_ARGS, ME_SYNC_SEND, ME_SYNC_RECV   more options: for both, for `send`, for `receive`
set -euo pipefail
source=$1 target=$2
bin=${ME_SYNC_BIN:-$(dirname "$0")/../target/release/me-sync}
if [ -z "${STATE:-}" ]; then
  STATE=$(mktemp -d)
  trap 'rm -rf "$STATE"' EXIT
fi
mkdir -p "$STATE/s" "$STATE/r"
rm -f "$STATE/ticket"
mkfifo "$STATE/ticket"
# shellcheck disable=SC2086 # prefixes and options are words
${SND:-} "$bin" --state-dir "$STATE/s" --listen "${SND_IP:-127.0.0.1}" --no-mdns ${ME_SYNC_ARGS:-} --quiet \
  send --no-qr ${ME_SYNC_SEND:-} "$source" >"$STATE/ticket" 2>"$STATE/send.err" &
sender=$!
read -r ticket <"$STATE/ticket"
# shellcheck disable=SC2086
if ! ${RCV:-} "$bin" --state-dir "$STATE/r" --listen "${RCV_IP:-127.0.0.1}" --no-mdns ${ME_SYNC_ARGS:-} --json \
  receive --yes ${ME_SYNC_RECV:-} "$ticket" "$target" >"$STATE/receive.out" 2>"$STATE/receive.err"; then
  tail -n 3 "$STATE/receive.err" "$STATE/receive.out" "$STATE/send.err" >&2
  exit 1
fi
wait "$sender"
