//! What ends early, and goes on.

use super::Row;

const fn row(
    name: &'static str,
    run: &'static str,
    (code, says): (i32, &'static str),
    disk: &'static str,
) -> Row {
    Row { name, before: "", run, code, says, disk }
}

const GOES_ON: (i32, &str) = (0, "going on: ");
const KEPT: &str = "of 19.1 MiB are kept: the same command goes on from there";

pub const ROWS: &[Row] = &[
    row("Ctrl-C keeps what came", "begin $BIG; finish INT", (130, KEPT), ".big.kwik-part"),
    row("SIGTERM keeps it", "begin $BIG; finish TERM", (143, KEPT), ".big.kwik-part"),
    row("SIGHUP keeps it", "begin $BIG; finish HUP", (129, KEPT), ".big.kwik-part"),
    row("SIGQUIT keeps it", "begin $BIG; finish QUIT", (131, KEPT), ".big.kwik-part"),
    row("SIGKILL keeps it", "begin $BIG; finish KILL", (137, ""), ".big.kwik-part"),
    row("the next one goes on", "begin $BIG; finish INT; kwik get $BIG", GOES_ON, "big=big"),
    row("after SIGKILL too", "begin $BIG; finish KILL; kwik get $BIG", GOES_ON, "big=big"),
    row(
        "again and again",
        "begin $BIG; finish KILL; begin $BIG; finish KILL; begin $BIG; finish INT; kwik get $BIG",
        GOES_ON,
        "big=big",
    ),
    row(
        "most is not fetched again",
        "begin $BIG; until_much; finish KILL; kwik get $BIG --json > $LOG
         sed 's/.*\"taken_over\":\\([0-9]*\\).*/\\1/' $LOG | awk '{ exit $1 < 4000000 }'",
        GOES_ON,
        "big=big",
    ),
    row(
        "with a name of its own",
        "begin $BIG -o y; finish INT; kwik get $BIG -o y",
        GOES_ON,
        "y=big",
    ),
    row(
        "into a folder",
        "mkdir d; begin $BIG -o d; finish INT; kwik get $BIG -d d && mv d/* d/.b* . 2> /dev/null; \
         ls big > /dev/null",
        GOES_ON,
        "big=big d/",
    ),
    row(
        "through a link",
        "ln -s y l; begin $BIG -o l; finish INT; kwik get $BIG -o l",
        GOES_ON,
        "l@ y=big",
    ),
    row(
        "over a file that is there",
        "echo old > y; begin $BIG -o y; finish INT; grep -qx old y && kwik get $BIG -o y",
        GOES_ON,
        "y=big",
    ),
    row(
        "over a file with other names",
        "echo old > y; ln y z; begin $BIG -o y; finish KILL; kwik get $BIG -o y",
        GOES_ON,
        "y=big+2 z=big+2",
    ),
    row(
        "what is there stays until then",
        "echo old > y; begin $BIG -o y; finish KILL",
        (137, ""),
        "y=old .y.kwik-part",
    ),
    row("with no-clobber", "begin $BIG; finish INT; kwik get $BIG -n", GOES_ON, "big=big"),
    row(
        "another target begins anew",
        "begin $BIG -o y; finish INT; kwik get $BIG -o z 2> $LOG; ! grep going $LOG",
        (0, ""),
        ".y.kwik-part z=big",
    ),
    row(
        "another object begins anew, and says why",
        "begin $BIG -o y; finish INT; kwik get ${L}other -o y",
        (0, "is another than the one that was begun here: fetching it anew"),
        "y=other",
    ),
    row(
        "without resume it leaves nothing",
        "begin $BIG --no-resume; finish INT",
        (130, "kwik: interrupted"),
        "",
    ),
    row(
        "without resume it uses nothing",
        "begin $BIG; finish INT; kwik get $BIG --no-resume 2> $LOG; ! grep 'going on' $LOG",
        (0, ""),
        "big=big",
    ),
    row(
        "killed without resume, the next one cleans",
        "begin $BIG --no-resume; finish KILL; kwik get $BIG",
        (0, "verified"),
        "big=big",
    ),
    row(
        "the second of two is told",
        "begin $BIG; kwik get $BIG; c=$?; finish KILL; exit $c",
        (6, "is writing big already: wait for it, or choose another file"),
        ".big.kwik-part",
    ),
    row(
        "the second is told who is first",
        "begin $BIG; kwik get $BIG 2>&1 | grep \"(process $G)\" >&2; finish KILL; true",
        (0, "another kwik get (process "),
        ".big.kwik-part",
    ),
    row(
        "two with targets of their own",
        "begin $BIG -o y; kwik get $BIG -o z; finish KILL; true",
        (0, "verified"),
        ".y.kwik-part z=big",
    ),
    row(
        "the target's own lock goes with its process",
        "begin $BIG; finish KILL; begin $BIG; wait $G",
        (0, ""),
        "big=big",
    ),
    row(
        "damage is found and mended",
        "begin $BIG; finish KILL; printf wrong | dd of=.big.kwik-part conv=notrunc bs=1 seek=70000 \
         2> /dev/null; kwik get $BIG",
        (0, "are here and verified, 64.0 KiB were damaged"),
        "big=big",
    ),
    row(
        "a part that was cut",
        "begin $BIG; finish KILL; truncate -s 500000 .big.kwik-part; kwik get $BIG",
        (0, "verified"),
        "big=big",
    ),
    row("an empty part", "true > .big.kwik-part; kwik get $BIG", (0, "verified"), "big=big"),
    row(
        "a part of nonsense",
        "cp $SECRETS/x .big.kwik-part; kwik get $BIG",
        (0, "verified"),
        "big=big",
    ),
    row(
        "nothing but the name is missing",
        "cp $SECRETS/big .big.kwik-part; kwik get $BIG",
        (0, "going on: 19.1 MiB of 19.1 MiB are here and verified"),
        "big=big",
    ),
    row(
        "all of it with wrong bytes",
        "cp $SECRETS/other .big.kwik-part; kwik get $BIG",
        (0, "verified"),
        "big=big",
    ),
    row(
        "nobody's litter",
        "cp $SECRETS/x .big.kwik-part; kwik get $NONE -o big",
        (3, "none"),
        ".big.kwik-part",
    ),
    row("what fails with nothing leaves nothing", "kwik get $NONE -o y", (3, "none"), ""),
    row(
        "what fails later leaves what is there",
        "begin $BIG -o y; finish KILL; kwik get kwik://$PIN@127.0.0.1:1/big -o y --timeout 1",
        (5, "are kept: the same command goes on from there"),
        ".y.kwik-part",
    ),
    row(
        "a hash that is expected still is",
        "h=$(hash_of $BIG); begin $BIG; finish KILL; kwik get $BIG --expect $h",
        GOES_ON,
        "big=big",
    ),
    row("Ctrl-C of a pipe", "begin $BIG -o -; finish INT", (130, "kwik: interrupted"), ""),
    row(
        "stopped for a while",
        "begin $BIG; kill -STOP $G; sleep 2; kill -CONT $G; wait $G",
        (0, ""),
        "big=big",
    ),
    row(
        "a Ctrl-C that is ignored stays so",
        "LEADER=; begin $BIG; kill -INT $G; kill -QUIT $G; wait $G",
        (0, ""),
        "big=big",
    ),
    row(
        "nohup stays",
        "needs nohup; (trap '' HUP; exec kwik get --limit-rate 10M $BIG 2> /dev/null) & sleep 0.5; \
         kill -HUP $!; wait $!",
        (0, ""),
        "big=big",
    ),
    row(
        "in a folder that may not be written",
        "needs setpriv; as_root; echo old > y; chmod 666 y; chmod 755 .
         export XDG_STATE_HOME=$(mktemp -d); chmod 777 $XDG_STATE_HOME
         LEADER='setpriv --reuid=65534 --regid=65534 --clear-groups'
         begin $BIG -o y; finish KILL; grep -qx old y || exit 1
         nobody kwik get $BIG -o y && ls -A $XDG_STATE_HOME/kwik/parts | wc -l | grep -qx 0",
        GOES_ON,
        "y=big",
    ),
    row(
        "somebody else's part is left alone",
        "needs setpriv; as_root; chmod 777 .; begin $BIG; finish KILL
         nobody kwik get $BIG",
        (0, "verified"),
        "big=big .big.kwik-part",
    ),
];
