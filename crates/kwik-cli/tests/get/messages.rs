//! What it says, and where.

use super::Row;

const fn row(
    name: &'static str,
    run: &'static str,
    (code, says): (i32, &'static str),
    disk: &'static str,
) -> Row {
    Row { name, before: "", run, code, says, disk }
}

const DONE: (i32, &str) = (0, "verified");

pub const ROWS: &[Row] = &[
    row("no standard error", "kwik get $X 2>&-", (0, "-"), "x=x"),
    row("a full standard error", "kwik get $X 2> /dev/full", (0, "-"), "x=x"),
    row(
        "a full standard error and events",
        "kwik get $BIG --progress json 2> /dev/full",
        (0, ""),
        "big=big",
    ),
    row("no standard error, and it fails", "kwik get $NONE 2>&-", (3, ""), ""),
    row(
        "a standard error that nobody reads",
        "{ kwik get $X; echo $? > code; } 2>&1 | true; grep -qx 0 code; rm code",
        (0, ""),
        "x=x",
    ),
    row("no standard input", "kwik get $X <&-", DONE, "x=x"),
    row(
        "a reader that has enough",
        "{ kwik get $BIG -o -; echo $? > code; } | head -c 9 > y; grep -qx 141 code; rm code",
        (0, "-"),
        "y",
    ),
    row("no reader", "{ kwik get $BIG -o -; echo $? > y; } | true; grep -qx 141 y", (0, "-"), "y"),
    row("a full standard output", "kwik get $BIG -o - > /dev/full", (6, "No space left"), ""),
    row(
        "a standard output that does not block",
        "needs python3; cat > p.py <<'P'
import os, subprocess, sys, time
r, w = os.pipe(); os.set_blocking(w, False)
p = subprocess.Popen(['kwik', 'get', sys.argv[1], '-o', '-'], stdout=w); os.close(w)
time.sleep(1)
with open('y', 'wb') as y:
    while part := os.read(r, 1 << 16): y.write(part)
sys.exit(p.wait())
P
python3 p.py $BIG && rm p.py",
        DONE,
        "y=big",
    ),
    row(
        "a standard error that does not block and is full",
        "needs python3; cat > p.py <<'P'
import os, subprocess, sys
r, w = os.pipe(); os.set_blocking(w, False)
try:
    while True: os.write(w, b'x' * 4096)
except BlockingIOError: pass
sys.exit(subprocess.call(['kwik', 'get', sys.argv[1]], stderr=w))
P
python3 p.py $X && rm p.py",
        (0, "-"),
        "x=x",
    ),
    row("quiet", "kwik get -q $X", (0, "-"), "x=x"),
    row("quiet, and it fails", "kwik get --quiet $NONE", (3, "none"), ""),
    row("quiet and verbose", "kwik get -q -v $X", (2, "--verbose"), ""),
    row("verbose", "kwik get -v $X", (0, "round trip"), "x=x"),
    row("the checksum", "kwik get $X", (0, "BLAKE3 "), "x=x"),
    row(
        "events are objects",
        "kwik get --progress json $BIG 2> $LOG; c=$?; grep -v '^{.*}$' $LOG && exit 1; \
         tail -1 $LOG | grep -q '\"event\":\"done\"' && exit $c",
        (0, "-"),
        "big=big",
    ),
    row("events, and it fails", "kwik get --progress json $NONE", (3, "none"), ""),
    row("no progress", "kwik get --progress none $X", DONE, "x=x"),
    row(
        "lines now and then",
        "kwik get --progress lines --limit-rate 7M $BIG",
        (0, " of 19.1 MiB  "),
        "big=big",
    ),
    row(
        "few lines where nobody looks",
        "kwik get --limit-rate 5M $BIG 2> $LOG; [ $(wc -l < $LOG) -le 3 ] && cat $LOG >&2",
        DONE,
        "big=big",
    ),
    row("no such form", "kwik get --progress bars $X", (2, "json"), ""),
    row(
        "a summary as JSON",
        "kwik get --json $X | grep -q '\"taken_over\":0.*\"verified\":true'",
        (0, ""),
        "x=x",
    ),
    row(
        "two things for standard output",
        "kwik get --json -o - $X",
        (2, "leave one of them out"),
        "",
    ),
    row(
        "a summary that nobody reads",
        "{ sleep 0.2; kwik get --json $X; echo $? > y; } | true; grep -qx 141 y",
        (0, "-"),
        "x=x y",
    ),
    row(
        "a full standard output for a summary",
        "kwik get --json $X > /dev/full",
        (6, "No space"),
        "x=x",
    ),
    row(
        "a bar on a terminal",
        "on_terminal 120 kwik get $BIG --limit-rate 20M; shows '=>.*] '",
        (0, ""),
        "big=big",
    ),
    row(
        "a bar is ASCII, without colours",
        "on_terminal 120 LC_ALL=C kwik get $BIG --limit-rate 20M; ! shows '[^ -~[:cntrl:]]' && \
         ! shows \"$(printf '\\033')\\[[0-9;]*m\"",
        (0, ""),
        "big=big",
    ),
    row(
        "a narrow terminal",
        "on_terminal 24 kwik get $BIG --limit-rate 20M; tr '\\r' '\\n' < $LOG | \
         sed 's/\\x1b\\[[0-9;]*[A-Za-z]//g' | grep ' %  ' | awk 'length > 24 { exit 1 }'",
        (0, ""),
        "big=big",
    ),
    row(
        "a dumb terminal",
        "on_terminal 80 TERM=dumb kwik get $BIG --limit-rate 7M; \
         ! shows \"$(printf '\\033')\" && shows ' %  '",
        (0, ""),
        "big=big",
    ),
    row(
        "a terminal of no kind",
        "on_terminal 80 env -u TERM kwik get $X; ! shows \"$(printf '\\033')\"",
        (0, ""),
        "x=x",
    ),
    row("foreign text is harmless", "kwik get ${L}a%E2%80%AEb -o y", (0, r"a\u{202e}b"), "y"),
    row("foreign text that fails", "kwik get ${L}c%E2%80%AEd -o y", (3, r"c\u{202e}d"), ""),
    row("no log", "KWIK_LOG=off kwik get $X", DONE, "x=x"),
    row("a log level that is none", "KWIK_LOG=loud kwik get $X", DONE, "x=x"),
];
