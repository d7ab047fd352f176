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
    row("help", "kwik get --help | grep -q no-resume", (0, "-"), ""),
];
