//! How it is asked, and whom.

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
    row("no link", "kwik get", (2, "LINK"), ""),
    row("no kwik link", "kwik get http://h/x", (2, "kwik://FINGERPRINT@HOST:PORT/NAME"), ""),
    row("no object", "kwik get ${L%/}", (2, "names no object"), ""),
    row("up and away", "kwik get ${L}../state/identity", (2, ".."), ""),
    row("up and away, hidden", "kwik get ${L}%2e%2e/x", (2, ".."), ""),
    row("no port", "kwik get kwik://h/x", (2, "port"), ""),
    row("an option that is none", "kwik get $X --jsno", (2, "--json"), ""),
    row("no time", "kwik get $X --timeout 5x", (2, "30, 30s, 5m or 1h"), ""),
    row("no time at all", "kwik get $X --timeout 0", (2, "from 1 s to a day"), ""),
    row("minutes", "kwik get $X --timeout 5m", DONE, "x=x"),
    row("no number of tries", "kwik get $X --retry=-1", (2, "--retry"), ""),
    row("one try", "kwik get $X --retry 0", DONE, "x=x"),
    row("no rate", "kwik get $X --limit-rate 1.5M", (2, "500K, 20M or 1G"), ""),
    row("no hash", "kwik get $X --expect 12", (2, "--expect"), ""),
    row("the hash that it has", "kwik get $X --expect $(hash_of $X)", DONE, "x=x"),
    row(
        "another hash",
        "kwik get $X --expect $(hash_of $BIG)",
        (4, "as --expect says: nothing was written"),
        "",
    ),
    row(
        "another hash into a pipe",
        "kwik get $X -o - --expect $(hash_of $BIG) | wc -c | grep -qx 0",
        (0, "--expect"),
        "",
    ),
    row("not there", "kwik get $NONE", (3, "none"), ""),
    row("a folder", "kwik get ${L}sub", (3, "sub"), ""),
    row("not there into a pipe", "kwik get $NONE -o -", (3, "none"), ""),
    row("not there replaces nothing", "echo old > y; kwik get $NONE -o y", (3, "none"), "y=old"),
    row("another key", "kwik get kwik://$(printf %064d 1)@${AT}x", (4, "take a new link"), ""),
    row("no key", "kwik get kwik://${AT}x", (4, "--trust-on-first-use"), ""),
    row("the first key", "kwik get kwik://${AT}x --trust-on-first-use", (0, "remembered"), "x=x"),
    row(
        "a known key",
        "kwik get kwik://${AT}x --trust-on-first-use -q && kwik get kwik://${AT}x -o y",
        DONE,
        "x=x y=x",
    ),
    row(
        "a changed key",
        "mkdir -p $XDG_STATE_HOME/kwik; echo \"${AT%/} $(printf %064d 1)\" > \
         $XDG_STATE_HOME/kwik/known_servers; kwik get kwik://${AT}x --trust-on-first-use",
        (4, "has changed"),
        "",
    ),
    row("no server", "kwik get kwik://$PIN@127.0.0.1:1/x --timeout 1", (5, "no answer"), ""),
    row(
        "no server replaces nothing",
        "echo old > y; kwik get kwik://$PIN@127.0.0.1:1/x -o y --timeout 1",
        (5, "no answer"),
        "y=old",
    ),
    row(
        "no host",
        "kwik get kwik://$PIN@no-such-host.invalid:1/x",
        (5, "no-such-host.invalid"),
        "",
    ),
    row("no home", "unset XDG_STATE_HOME HOME; kwik get $X", DONE, "x=x"),
    row(
        "no home to know servers in",
        "unset XDG_STATE_HOME HOME; kwik get kwik://${AT}x",
        (6, "--state DIR"),
        "",
    ),
    row(
        "several links",
        "mkdir d; kwik get $X $EMPTY ${L}sub/deep -d d && mv d/* .",
        DONE,
        "d/ x=x empty=empty deep=sub/deep",
    ),
    row("several links into a folder", "kwik get $X $EMPTY -o .", DONE, "x=x empty=empty"),
    row(
        "several links over one session",
        "KWIK_LOG=info kwik get $X $EMPTY $BIG --progress json 2>&1 | \
         grep '\"done\"' | grep -c '\"sessions\":1,' | grep -qx 3",
        (0, ""),
        "x=x empty=empty big=big",
    ),
    row(
        "of several one is not there",
        "kwik get $X $NONE $EMPTY 2> $LOG; c=$?; grep -q '^kwik: none: ' $LOG && tail -1 $LOG >&2; \
         exit $c",
        (3, "1 of 3 objects were not fetched"),
        "x=x empty=empty",
    ),
    row(
        "of several one is there",
        "echo old > x; kwik get $X $EMPTY 2> $LOG; c=$?; tail -1 $LOG >&2; exit $c",
        (6, "1 of 2 objects were not fetched"),
        "x=old empty=empty",
    ),
    row("several links and one file", "kwik get $X $EMPTY -o y", (2, "give a folder with -d"), ""),
    row("several links into a pipe", "kwik get $X $EMPTY -o -", (2, "-d"), ""),
    row("several links and one hash", "kwik get $X $BIG --expect $(hash_of $X)", (2, "one"), ""),
    row("one link twice", "kwik get $X $X -n", (0, "x is there already, and stays"), "x=x"),
    row("a file as it should be", "cp $SECRETS/x .; kwik verify $X", (0, "-"), "x"),
    row("a file elsewhere", "cp $SECRETS/x y; kwik verify $X y | grep -q BLAKE3", (0, "-"), "y"),
    row(
        "a file that is not",
        "echo old > x; kwik verify $X",
        (1, "x is not as it should be: its BLAKE3 hash is "),
        "x=old",
    ),
    row("a file and a hash", "cp $SECRETS/x y; kwik verify $(hash_of $X) y", (0, ""), "y"),
    row("standard input and a hash", "kwik verify $(hash_of $X) - < $SECRETS/x", (0, ""), ""),
    row(
        "another hash than a file's",
        "echo > y; kwik verify $(hash_of $X) y",
        (1, "y is not"),
        "y",
    ),
    row("a hash alone", "kwik verify $(printf %064d 1)", (2, "give the file, too"), ""),
    row("a file that is not there", "kwik verify $X", (3, "cannot read x"), ""),
    row("an object that is not there", "echo > none; kwik verify $NONE", (3, "none"), "none"),
    row("neither link nor hash", "kwik verify 12 y", (2, "kwik://"), ""),
    row("help", "kwik get --help | grep -q no-resume", (0, "-"), ""),
];
