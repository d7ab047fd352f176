# Sourced by the scripts beside it: $work, a folder that goes with the script, and $pids, processes
# that do.

work=$(mktemp -d)
pids=()

clean_up() {
  local pid
  for pid in "${pids[@]}"; do
    kill "$pid" 2>/dev/null || true
  done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
