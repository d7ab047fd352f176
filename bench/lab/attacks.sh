#!/usr/bin/env bash
# What an honest session keeps of its goodput while another host attacks its server, attack by attack.
#
# Run it inside a network lab, as three-servers.sh, with other hosts:
#   LAB_SERVER   the address of the host `server`
#   LAB_IN       a command: `$LAB_IN server PROGRAM...` runs PROGRAM on host server
# Links: `client`, the first host, and `attacker` 300 Mbit/s and 1 ms one way each, with queues of 20 ms;
# `server` without a limit, so that client and attacker share no link that is full. All three are processes of
# their own; the machine's processors should be less than busy, or they are what is shared.
#
#   LAB... bench/lab/attacks.sh [ATTACK]
#
# ATTACK      a part of the names of the attacks to run (default: all)
# ATTACKERS   how many attack at once, each a process that dials again at once when it is cut off (default 1)
# MEMORY      the test binary that plays all parts (default: it is built)
#
# An attack runs five times in turn with nothing, a second each; the medians are printed.
set -euo pipefail
export LC_ALL=C

: "${LAB_IN:?run me inside a lab}" "${LAB_SERVER:?}"
built() {
  cargo test --locked --release -p kwik-transport --test memory --no-run 2>&1 | sed -n 's/.*(\(.*\))$/\1/p'
}
memory=$(realpath "${MEMORY:-$(built)}")
KWIK_ATTACK=${1:-} chrt -r 10 "$memory" --exact goodput::an_honest_session_keeps_its_goodput_over_links \
  --ignored --nocapture
