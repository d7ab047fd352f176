//! Where it is written.

use super::Row;

const fn row(
    name: &'static str,
    before: &'static str,
    run: &'static str,
    (code, says): (i32, &'static str),
    disk: &'static str,
) -> Row {
    Row { name, before, run, code, says, disk }
}

const DONE: (i32, &str) = (0, "verified");

pub const ROWS: &[Row] = &[
    // Names.
    row("its own name", "", "kwik get $X", DONE, "x=x"),
    row("the last part of its name", "", "kwik get ${L}sub/deep", DONE, "deep=sub/deep"),
    row("a blank in its name", "", "kwik get ${L}a%20b", DONE, "a_b"),
    row("a name beyond ASCII", "", "kwik get ${L}%C3%BCn%C3%AF", DONE, "ünï=ünï"),
    row("an object named - is a file", "", "kwik get ${L}- | wc -c | grep -qx 0", DONE, "-=-"),
    row("an object named as an option", "", "kwik get ${L}-n", DONE, "-n=-n"),
    row("an empty object", "", "kwik get $EMPTY", DONE, "empty=empty"),
    row("a large object", "", "kwik get $BIG", DONE, "big=big"),
    row("a name of one's own", "", "kwik get $X -o y", DONE, "y=x"),
    row("a name of one's own first", "", "kwik get -o y $X", DONE, "y=x"),
    row("a name that begins with a dash", "", "kwik get $X -o ./-y", DONE, "-y=x"),
    row(
        "the longest name",
        "",
        "n=$(printf %0255d 0); kwik get $X -o $n && mv $n y",
        DONE,
        "y=x",
    ),
    row("a name that is too long", "", "kwik get $X -o $(printf %0256d 0)", (6, "too long"), ""),
    row("no name", "", "kwik get $X -o ''", (2, "-o"), ""),
    row(
        "a name that is no text",
        "needs bash",
        "n=$(printf '\\377'); kwik get $X -o \"$n\" && mv \"$n\" y",
        DONE,
        "y=x",
    ),
    // Folders.
    row("into a folder", "mkdir d", "kwik get $X -o d && mv d/x .", DONE, "d/ x=x"),
    row("into a folder with a slash", "mkdir d", "kwik get $X -o d/ && mv d/x .", DONE, "d/ x=x"),
    row("into here", "", "kwik get $X -o .", DONE, "x=x"),
    row("into a folder by option", "mkdir d", "kwik get $X -d d && mv d/x .", DONE, "d/ x=x"),
    row("into a folder by a link", "mkdir d; ln -s d l", "kwik get $X -o l && mv d/x .", DONE, "d/ l@ x=x"),
    row("a file in a folder", "mkdir d", "kwik get $X -o d/y && mv d/y .", DONE, "d/ y=x"),
    row(
        "nothing is replaced in a folder",
        "mkdir d; echo old > d/x",
        "kwik get $X -o d; c=$?; mv d/x .; exit $c",
        (6, "d/x exists already: name it with -o to replace it, or give --force"),
        "d/ x=old",
    ),
    row(
        "but by force",
        "mkdir d; echo old > d/x",
        "kwik get $X -d d --force && mv d/x .",
        DONE,
        "d/ x=x",
    ),
    row("no such folder", "", "kwik get $X -o d/y", (6, "the folder of d/y does not exist"), ""),
    row("no such folder with a slash", "", "kwik get $X -o d/", (6, "create it first"), ""),
    row("no such folder by option", "", "kwik get $X -d d", (6, "create it first"), ""),
    row("a file as a folder", "echo old > f", "kwik get $X -o f/y", (6, "f/y"), "f=old"),
    row("a folder with its name", "mkdir x", "kwik get $X", (6, "x is a folder"), "x/"),
    row("two places", "", "kwik get $X -o y -d .", (2, "--dir"), ""),
    row("a folder that keeps nothing", "", "kwik get $X -o /proc/y", (6, "/proc/y"), ""),
    // What is there.
    row("a name that nobody gave replaces nothing", "echo old > x", "kwik get $X", (6, "--force"), "x=old"),
    row("but by force here too", "echo old > x", "kwik get $X --force", DONE, "x=x"),
    row("a name that was given replaces", "echo old > y", "kwik get $X -o y", DONE, "y=x"),
    row("a longer file is replaced", "cp $SECRETS/big y", "kwik get $X -o y", DONE, "y=x"),
    row("what is there is enough", "echo old > x", "kwik get $X -n", (0, "x is there already"), "x=old"),
    row("what was named is enough", "echo old > y", "kwik get $X -n -o y", (0, "y is there"), "y=old"),
    row("what is not there is fetched", "", "kwik get $X --no-clobber", DONE, "x=x"),
    row("no force with no-clobber", "", "kwik get $X -n --force", (2, "--force"), ""),
    row("even a link to nothing is enough", "ln -s no x", "kwik get $X -n", (0, "there"), "x@"),
    row(
        "a file that appears meanwhile stays",
        "",
        "begin $BIG; echo old > big; wait $G; c=$?; grep ^kwik: $LOG >&2; exit $c",
        (6, "big has appeared meanwhile, and stays"),
        "big=old .big.kwik-part=big",
    ),
    // Modes, owners, names.
    row("a new file's mode", "", "umask 027; kwik get $X", DONE, "x=x:640"),
    row("a private file stays so", "echo old > y; chmod 600 y", "kwik get $X -o y", DONE, "y=x:600"),
    row("a program stays one", "echo old > y; chmod 755 y", "kwik get $X -o y", DONE, "y=x:755"),
    row(
        "a private file's part is private",
        "echo old > big; chmod 600 big",
        "begin $BIG -o big; finish KILL 2> /dev/null",
        (137, ""),
        "big=old:600 .big.kwik-part:600",
    ),
    row(
        "a write-protected file stays",
        "echo old > y; chmod 444 y",
        "kwik get $X -o y",
        (6, "y is write-protected: give --force"),
        "y=old:444",
    ),
    row("but by force, too", "echo old > y; chmod 444 y", "kwik get $X -o y --force", DONE, "y=x:444"),
    row(
        "somebody else's file stays",
        "needs setpriv; echo old > y; chmod 755 .; chmod 644 y",
        "[ $(id -u) = 0 ] || exit 99; nobody kwik get $X -o y",
        (6, "y is write-protected"),
        "y=old",
    ),
    row(
        "an owner stays",
        "[ $(id -u) = 0 ] || exit 99; echo old > y; chown 12345:123 y",
        "kwik get $X -o y && [ $(stat -c %u:%g y) = 12345:123 ]",
        DONE,
        "y=x",
    ),
    row(
        "an owner that one cannot give stays",
        "needs setpriv; [ $(id -u) = 0 ] || exit 99; chmod 777 .; echo old > y; chmod 666 y",
        "i=$(stat -c %i y); nobody kwik get $X -o y && [ $(stat -c %u:%i y) = 0:$i ]",
        DONE,
        "y=x:666",
    ),
    row("other names stay", "echo old > y; ln y z", "kwik get $X -o y", DONE, "y=x+2 z=x+2"),
    row(
        "other names and write-protected",
        "echo old > y; ln y z; chmod 444 y",
        "kwik get $X -o y",
        (6, "write-protected"),
        "y=old+2 z=old+2",
    ),
    // Links.
    row("a link stays", "echo old > y; ln -s y l", "kwik get $X -o l", DONE, "l@=x y=x"),
    row("a link to nothing yet", "ln -s y l", "kwik get $X -o l", DONE, "l@=x y=x"),
    row("a link to a link", "ln -s y k; ln -s k l", "kwik get $X -o l", DONE, "k@ l@ y=x"),
    row(
        "a link elsewhere",
        "mkdir d; ln -s d/y l",
        "kwik get $X -o l && mv d/y . && ls -A d | wc -l | grep -qx 0",
        DONE,
        "d/ l@ y=x",
    ),
    row("a link into no folder", "ln -s d/y l", "kwik get $X -o l", (6, "does not exist"), "l@"),
    row("a link to itself", "ln -s l l", "kwik get $X -o l", (6, "leads to itself"), "l@"),
    row("a link with its own name", "ln -s y x", "kwik get $X", (6, "x exists already"), "x@"),
    // What is no file.
    row(
        "a pipe",
        "mkfifo p",
        "cat p > y & kwik get $X -o p && wait",
        DONE,
        "p| y=x",
    ),
    row("a pipe for nothing", "mkfifo p", "cat p > y & kwik get $EMPTY -o p && wait", DONE, "p| y=empty"),
    row("a pipe with its own name", "mkfifo x", "kwik get $X", (6, "x exists already"), "x|"),
    row("a link to a pipe", "mkfifo p; ln -s p l", "cat p > y & kwik get $X -o l && wait", DONE, "l@ p| y=x"),
    row(
        "a pipe whose reader leaves",
        "mkfifo p",
        "head -c 9 p > /dev/null & kwik get $BIG -o p",
        (141, ""),
        "p|",
    ),
    row("a device", "", "kwik get $X -o /dev/null && [ -c /dev/null ]", DONE, ""),
    row("a full device", "", "kwik get $X -o /dev/full", (6, "No space left"), ""),
    row("standard output", "", "kwik get $X -o - > y", DONE, "y=x"),
    row("standard output for nothing", "", "kwik get $EMPTY -o - > y", DONE, "y=empty"),
    row("standard output as a device", "", "kwik get $X -o /dev/stdout > y", DONE, "y=x"),
    row("standard output goes on", "", "{ echo; kwik get $X -o /dev/fd/1; } > y; sed -i 1d y", DONE, "y=x"),
    row("a file named -", "", "kwik get $X -o ./-", DONE, "-=x"),
    row(
        "a descriptor goes on where it is",
        "",
        "{ echo >&3; kwik get $X -o /dev/fd/3; echo y >&3; } 3> y; sed -i '1d;$d' y; \
         truncate -s 300000 y",
        DONE,
        "y",
    ),
    row("a descriptor that is not open", "", "kwik get $X -o /dev/fd/77", (6, "cannot write"), ""),
    row("a descriptor to append", "echo > y", "kwik get $X -o /dev/fd/3 3>> y; sed -i 1d y", DONE, "y=x"),
    // Folders that are not one's own.
    row(
        "a folder that may not be written",
        "needs setpriv; chmod 755 .",
        "nobody sh -c 'true > y' 2> /dev/null && exit 99; nobody kwik get $X",
        (6, "choose a folder you may write to"),
        "",
    ),
    row(
        "a file in a folder that may not be written",
        "needs setpriv; [ $(id -u) = 0 ] || exit 99; echo old > y; chmod 666 y; chmod 755 .",
        "export XDG_STATE_HOME=$(mktemp -d); chmod 777 $XDG_STATE_HOME; nobody kwik get $X -o y && \
         ls -A $XDG_STATE_HOME/kwik/parts | wc -l | grep -qx 0",
        DONE,
        "y=x:666",
    ),
    row(
        "a folder that may be written and not read",
        "needs setpriv; mkdir d; chmod 733 d",
        "nobody kwik get $X -o d/y && mv d/y y",
        DONE,
        "d/ y=x",
    ),
    row(
        "a link in the place of its part",
        "ln -s $SECRETS/big .x.kwik-part",
        "kwik get $X && cmp $SECRETS/big $SECRETS/big",
        DONE,
        "x=x .x.kwik-part@=big",
    ),
    row("a folder in the place of its part", "mkdir .x.kwik-part", "kwik get $X", DONE, "x=x .x.kwik-part/"),
    // Room.
    row(
        "a limit of size is told first",
        "",
        "ulimit -f 100; kwik get $BIG",
        (6, "big"),
        "",
    ),
    row(
        "a full disk is told first",
        "needs unshare",
        "unshare -m true || exit 99; mkdir m
         unshare -m sh -c 'mount -t tmpfs -o size=2m none m && cd m && kwik get $0 --progress json; \
         c=$?; [ $(ls -A . | wc -l) = 0 ] || exit 1; exit $c' $BIG 2> $LOG; c=$?
         grep -q '\"received\":[1-9][0-9]\\{6\\}' $LOG && exit 1; cat $LOG >&2; exit $c",
        (6, "no space for big: "),
        "m/",
    ),
    row("few descriptors", "", "ulimit -n 32; kwik get $X", DONE, "x=x"),
];
