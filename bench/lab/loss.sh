#!/usr/bin/env bash
# What loss by chance costs over real sockets: one server, one link, each controller in turn.
#
# Run it inside a network lab: a tool that gives each host a network of its own with a rate and a
# delay, runs this script on the host `client`, and sets
#   LAB_S1   the address of the host s1, whose link has 100 Mbit/s and 25 ms one way
#   LAB_IN   a command: `$LAB_IN s1 PROGRAM...` runs PROGRAM on host s1
#   LAB_CTL  a file: a line `s1 100mbit,25ms,loss=1%` changes the link of s1
#
#   cargo build --release -p kwik-cli
#   LAB... bench/lab/loss.sh [ROUNDS]
#
# SIZE_MIB  size of the file (default 64)
# PORT      the first of two UDP ports of the server (default 4433)
# KWIK      the command (default: target/release/kwik)
set -euo pipefail
export LC_ALL=C

: "${LAB_IN:?run me inside a lab}" "${LAB_S1:?}" "${LAB_CTL:?}"
rounds=${1:-1}
size_mib=${SIZE_MIB:-64}
port=${PORT:-4433}
kwik=$(realpath "${KWIK:-target/release/kwik}")
source "$(dirname "${BASH_SOURCE[0]}")/work.sh"

head -c "$((size_mib * 1024 * 1024))" /dev/urandom >"$work/object"
declare -A links
for control in tolerant model cubic; do
  "$LAB_IN" s1 "$kwik" serve "$work/object" --listen "$LAB_S1:$port" --state "$work/$control" \
    --congestion "$control" >"$work/$control.log" 2>&1 &
  pids+=($!)
  for ((tries = 0; tries < 600; tries++)); do
    grep -q 'kwik get' "$work/$control.log" && break
    sleep 0.1
  done
  links[$control]=kwik://$("$kwik" id --state "$work/$control")@$LAB_S1:$port/object
  port=$((port + 1))
done

printf 'loss\tcontrol\tMbit/s\n'
for loss in 0 0.01 0.1 1 2; do
  echo "s1 100mbit,25ms,loss=$loss%" >"$LAB_CTL"
  sleep 0.5
  for ((round = 0; round < rounds; round++)); do
    for control in tolerant model cubic; do
      began=$(date +%s%N)
      timeout 300 "$kwik" get -q -o "$work/got" --force "${links[$control]}"
      took=$(($(date +%s%N) - began))
      cmp -s "$work/object" "$work/got"
      awk -v size="$size_mib" -v took="$took" -v loss="$loss" -v control="$control" \
        'BEGIN { printf "%s %%\t%s\t%.1f\n", loss, control, size * 8.388608 / (took / 1e9) }'
    done
  done
done
