#!/usr/bin/env bash
# What an honest `kwik get` keeps while silent first datagrams and idle sessions of others fill its server.
#
# Run it inside a network lab, as attacks.sh, with these hosts and addresses:
#   LAB_SERVER           the address of the host `server`
#   LAB_IN               a command: `$LAB_IN server PROGRAM...` runs PROGRAM on host server
# Links: `client`, the first host, 50 Mbit/s and 10 ms one way; no limits for `server`, for `flood`, which
# forges addresses of 10.66.0.0/24, and for `idle1` to `idle8`, whose sessions are 1,024 together.
# Priorities on one machine are those of attacks.sh.
#
#   cargo build --release --bin kwik
#   LAB... bench/lab/flood.sh [ROUNDS]
#
# ROUNDS   pairs of a get alone and a get beside the flood (default 5)
# RATE     first datagrams a second (default 10000)
# IDLE     idle sessions of each of the eight hosts (default 128)
# KWIK     the kwik binary (default target/release/kwik)
# SLOTS    the test binary that plays the attackers (default: it is built)
# SIZE_MIB size of the file (default 32)
# PORT     UDP port of the server (default 4433)
#
# Exit status 0 when each get beside the flood equals the source, the median of their times to the first byte
# is at most 1 s, and the median of their rates, from the first byte on, at least 90 % of that without.
set -euo pipefail
export LC_ALL=C

rounds=${1:-5}
rate=${RATE:-10000}
kwik=$(realpath "${KWIK:-target/release/kwik}")
size_mib=${SIZE_MIB:-32}
port=${PORT:-4433}
: "${LAB_IN:?run me inside a lab}" "${LAB_SERVER:?}"
built() {
  cargo test --locked --release -p kwik-transport --test slots --no-run 2>&1 | sed -n 's/.*(\(.*\))$/\1/p'
}
slots=$(realpath "${SLOTS:-$(built)}")

work=$(mktemp -d)
pids=()
attackers=()
clean_up() {
  kill "${pids[@]}" "${attackers[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
fail() {
  echo "flood: $*" >&2
  exit 1
}

mkdir "$work/source"
head -c "$((size_mib * 1024 * 1024))" /dev/urandom >"$work/source/object.bin"
"$LAB_IN" server chrt -r 10 "$kwik" serve "$work/source" --listen "$LAB_SERVER:$port" \
  --state "$work/server" >"$work/server.log" 2>&1 &
server=$!
pids+=("$server")
for ((tries = 0; tries < 100; tries++)); do
  grep -q 'kwik get' "$work/server.log" && break
  sleep 0.1
done
pin=$("$kwik" id --state "$work/server")
link=kwik://$pin@$LAB_SERVER:$port/object.bin
"$LAB_IN" flood ip route replace local 10.66.0.0/24 dev lo

export KWIK_VICTIM=$LAB_SERVER:$port KWIK_PIN=$pin KWIK_RATE=$rate KWIK_IDLE=${IDLE:-128} KWIK_SOURCES=10.66.0.0

# attack HOST TEST: one attacker.
attack() {
  "$LAB_IN" "$1" chrt -r 5 "$slots" --exact "$2" --ignored --nocapture >"$work/$1.log" 2>&1 &
  attackers+=("$!")
}

# said WORD FIELD HOST...: the sum of the last figures that hosts have said.
said() {
  local word=$1 host
  shift
  for host in "$@"; do
    grep -- "-- $word" "$work/$host.log" | tail -n 1
  done | awk '{ sum += $3 } END { print sum + 0 }'
}

idle_hosts=(idle1 idle2 idle3 idle4 idle5 idle6 idle7 idle8)
begin_flood() {
  local host tries
  attackers=()
  attack flood silent_first_datagrams_at_a_rate
  for ((tries = 0; tries < 100 && $(said sent flood) == 0; tries++)); do
    sleep 0.2
  done
  for host in "${idle_hosts[@]}"; do
    attack "$host" idle_sessions_that_come_again
  done
  for ((tries = 0; tries < 100; tries++)); do
    [ "$(said idle "${idle_hosts[@]}")" -ge $((8 * KWIK_IDLE)) ] && break
    sleep 0.2
  done
  # The youngest have come just now: the eldest are 1 s old.
  sleep 1
}
end_flood() {
  kill "${attackers[@]}" 2>/dev/null || true
  wait "${attackers[@]}" 2>/dev/null || true
  attackers=()
}
ticks() {
  awk '{ print $14 + $15 }' "/proc/$server/stat"
}

# get KIND: one download; adds its time to the first byte and its rate to the figures of KIND.
get() {
  local kind=$1 began status=0 used
  used=$(ticks)
  began=$EPOCHREALTIME
  chrt -r 10 "$kwik" get "$link" -o - 2>"$work/get.log" | {
    head -c 1
    echo "$EPOCHREALTIME" >"$work/first"
    cat
  } >"$work/got.bin" || status=$?
  [ "$status" -eq 0 ] || fail "$kind: kwik get ended with $status: $(cat "$work/get.log")"
  cmp "$work/source/object.bin" "$work/got.bin" || fail "$kind: the file differs"
  awk -v kind="$kind" -v began="$began" -v first="$(cat "$work/first")" -v ended="$EPOCHREALTIME" \
    -v mib="$size_mib" -v ticks="$(($(ticks) - used))" -v idle="${2:-0}" -v out="$work/$kind" 'BEGIN {
      start = first - began; rate = mib * 8.388608 / (ended - first)
      printf "%-8s %8.3f s to the first byte, %7.2f Mbit/s, server %3.0f %% of a core, %d idle\n",
        kind, start, rate, ticks / (ended - began), idle
      print start, rate >>out
    }'
}

median() {
  sort -n | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}

for ((round = 0; round < rounds; round++)); do
  get alone
  begin_flood
  get beside "$(said idle "${idle_hosts[@]}")"
  tail -n 1 "$work/flood.log"
  end_flood
done
start=$(cut -d ' ' -f 1 "$work/beside" | median)
before=$(cut -d ' ' -f 2 "$work/alone" | median)
kept=$(cut -d ' ' -f 2 "$work/beside" | median | awk -v before="$before" '{ printf "%.1f", $1 / before * 100 }')
echo "first byte after $start s, $kept % of the rate"
awk -v start="$start" -v kept="$kept" 'BEGIN { exit !(start <= 1 && kept >= 90) }' || fail "too slow"
