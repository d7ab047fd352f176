//! Options that are not on the command line: environment variables and the configuration file.
//!
//! Each long option of a command has a variable, `KWIK_` and its name in capitals, and a line in
//! the file. The command line counts before the environment, and that before the file. What is
//! found becomes the option's default, so that it is checked as any value is.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::{
    args::Arguments,
    failure::{Failure, Kind},
    options::Again,
};

/// Bytes of a configuration file.
const MAX_FILE: u64 = 1024 * 1024;
/// Options that name the file, or are of no use as a default.
const NEVER: [&str; 4] = ["config", "help", "version", "end-with-stdin"];
/// Commands about the command line itself.
const PLAIN: [&str; 2] = ["completions", "man"];

/// Values from elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Defaults(Vec<Default>);

#[derive(Debug)]
struct Default {
    long: String,
    values: Vec<OsString>,
    /// Where they stand, for people.
    origin: String,
}

impl Defaults {
    /// Those of the command that `given` names, which begins with the program.
    pub(crate) fn find(command: &Command, given: &[OsString]) -> Result<Self, Failure> {
        let Some(chosen) = chosen(command, given) else { return Ok(Self(Vec::new())) };
        if PLAIN.contains(&chosen.get_name()) {
            return Ok(Self(Vec::new()));
        }
        let lines = match file(given)? {
            Some(path) => read(&path, command)?,
            None => Vec::new(),
        };
        let mut found: Vec<Default> = Vec::new();
        let options = || chosen.get_arguments().filter(|option| is_option(option));
        for option in options() {
            let long = option.get_long().unwrap_or_default();
            let variable = format!("KWIK_{}", long.replace('-', "_").to_ascii_uppercase());
            let value = env::var_os(&variable).filter(|value| !value.is_empty());
            let value = value.filter(|_| !is_for_ctl(chosen, long));
            let lines: Vec<_> = lines.iter().filter(|line| line.is_for(chosen, long)).collect();
            let (values, origin) = match (value, lines.last()) {
                (Some(value), _) if takes_several(option) => (words(&value), variable),
                (Some(value), _) => (vec![value], variable),
                (None, Some(last)) => {
                    let values = lines.iter().map(|line| OsString::from(&line.value));
                    (values.collect(), last.origin.clone())
                }
                (None, None) => continue,
            };
            // One value is the last, as one section may follow what is for all.
            let values = match takes_several(option) {
                true => values,
                false => values.into_iter().next_back().into_iter().collect(),
            };
            if !values.is_empty() && !is_overruled(chosen, option, given) {
                let values = flags(option, values, &origin)?;
                found.push(Default { long: long.to_owned(), values, origin });
            }
        }
        Self(found).checked(chosen)
    }

    /// That no two of them exclude each other.
    fn checked(self, command: &Command) -> Result<Self, Failure> {
        let on = |default: &&Default| default.values != ["false"];
        for default in self.0.iter().filter(on) {
            let option = find(command, &default.long);
            let conflicts = option.map(|it| command.get_arg_conflicts_with(it)).unwrap_or_default();
            let other = self.0.iter().filter(on).find(|other| {
                conflicts.iter().any(|it| it.get_long() == Some(other.long.as_str()))
            });
            if let Some(other) = other {
                let (one, two) = (&default.origin, &other.origin);
                let message = format!(
                    "{} ({one}) does not go with {} ({two}): leave one of them out",
                    default.long, other.long
                );
                return Err(Failure::new(Kind::Usage, message));
            }
        }
        Ok(self)
    }

    /// The command with them.
    pub(crate) fn apply(&self, command: Command, given: &[OsString]) -> Command {
        let chosen = chosen(&command, given).map(|it| it.get_name().to_owned());
        let Some(chosen) = chosen else { return command };
        command.mut_subcommand(chosen, |mut chosen| {
            for Default { long, values, .. } in &self.0 {
                let Some(id) = find(&chosen, long).map(|option| option.get_id().clone()) else {
                    continue;
                };
                chosen = chosen.mut_arg(id, |option| {
                    option.required(false).default_values(values.iter().map(OsString::clone))
                });
            }
            chosen
        })
    }

    /// Where the value stands of which `message` says that it is wrong, if not on the command line.
    pub(crate) fn origin(&self, message: &str) -> Option<&str> {
        let is_meant = |default: &&Default| {
            let option = format!("'--{}", default.long);
            let mut rest = message.split(&option).skip(1);
            rest.any(|rest| rest.starts_with([' ', '\'']))
        };
        self.0.iter().find(is_meant).map(|default| default.origin.as_str())
    }
}

/// Reads an option of the command that runs again, which may be given several times: none when the
/// command line has it.
pub(crate) fn read_again(long: &str) -> Result<Option<Again>, Failure> {
    let (command, given): (_, Vec<_>) = (Arguments::command(), env::args_os().collect());
    let option = chosen(&command, &given).and_then(|command| find(command, long));
    if option.is_none_or(|option| is_given(option, &given)) {
        return Ok(None);
    }
    let Defaults(found) = Defaults::find(&command, &given)?;
    let found = found.into_iter().find(|default| default.long == long);
    let (values, origin) = found.map(|found| (found.values, found.origin)).unwrap_or_default();
    let values = values.iter().map(|value| value.to_string_lossy().into_owned()).collect();
    Ok(Some(Again { values, origin }))
}

/// The command that is given.
fn chosen<'a>(command: &'a Command, given: &[OsString]) -> Option<&'a Command> {
    let mut words = given.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "--config" {
            // The file may be called as a command is.
            words.next();
        } else if let Some(found) = command.get_subcommands().find(|it| word == it.get_name()) {
            return Some(found);
        }
    }
    None
}

/// `KWIK_ADMIN` says for `kwik ctl` where a server is; another server shall not take its place.
fn is_for_ctl(command: &Command, long: &str) -> bool {
    command.get_name() != "ctl" && matches!(long, "admin" | "admin-token-file")
}

fn is_option(option: &Arg) -> bool {
    option.get_long().is_some_and(|long| !NEVER.contains(&long))
}

fn find<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|option| is_option(option) && option.get_long() == Some(long))
}

fn takes_several(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
}

fn is_flag(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue)
}

/// Flags take yes or no.
fn flags(option: &Arg, values: Vec<OsString>, origin: &str) -> Result<Vec<OsString>, Failure> {
    if !is_flag(option) {
        return Ok(values);
    }
    let known = |value: &OsString| match value.to_str()?.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(OsString::from("true")),
        "false" | "no" | "off" | "0" => Some(OsString::from("false")),
        _ => None,
    };
    let values = values.iter().map(known).collect::<Option<Vec<_>>>();
    values.ok_or_else(|| Failure::new(Kind::Usage, format!("{origin} is neither yes nor no")))
}

/// Words, as no value of an option that may be given several times has spaces.
fn words(value: &OsStr) -> Vec<OsString> {
    let words = value.as_bytes().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.map(|word| OsStr::from_bytes(word).to_owned()).collect()
}

/// Whether the command line has the option, or one that excludes it.
fn is_overruled(command: &Command, option: &Arg, given: &[OsString]) -> bool {
    let excludes = |other: &&Arg| {
        let declares = |one: &Arg, two: &Arg| {
            command.get_arg_conflicts_with(one).iter().any(|it| it.get_id() == two.get_id())
        };
        other.get_id() == option.get_id() || declares(option, other) || declares(other, option)
    };
    command.get_arguments().filter(excludes).any(|other| is_given(other, given))
}

fn is_given(option: &Arg, given: &[OsString]) -> bool {
    let long = option.get_long().map(|long| format!("--{long}"));
    let short = option.get_short();
    given.iter().skip(1).take_while(|word| *word != "--").any(|word| {
        let Some(word) = word.to_str() else { return false };
        let by_long = long.as_ref().is_some_and(|long| {
            word.strip_prefix(long.as_str())
                .is_some_and(|rest| matches!(rest.get(..1), None | Some("=")))
        });
        let by_short = short.is_some_and(|short| {
            word.len() > 1
                && !word.starts_with("--")
                && word.starts_with('-')
                && word.contains(short)
        });
        by_long || by_short
    })
}

/// The file to read: as the command line says, or `KWIK_CONFIG`, or the usual one if it is there.
fn file(given: &[OsString]) -> Result<Option<PathBuf>, Failure> {
    let mut words = given.iter().skip(1).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if word == "--config" {
            // Without a value it is clap's to say so.
            return Ok(words.next().map(PathBuf::from));
        }
        if let Some(path) = word.as_bytes().strip_prefix(b"--config=") {
            return Ok(Some(PathBuf::from(OsStr::from_bytes(path))));
        }
    }
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("KWIK_CONFIG") {
        return Ok(Some(path));
    }
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    Ok(base.map(|base| base.join("kwik/config")).filter(|path| path.exists()))
}

/// `key = value`, of one command or of all that have such an option.
#[derive(Debug)]
struct Line {
    command: Option<String>,
    key: String,
    value: String,
    origin: String,
}

impl Line {
    fn is_for(&self, command: &Command, long: &str) -> bool {
        let here = self.command.as_deref().is_none_or(|name| name == command.get_name());
        here && self.key == long
    }
}

fn read(path: &Path, command: &Command) -> Result<Vec<Line>, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| {
        Failure::new(Kind::Disk, format!("cannot read the configuration {shown}: {error}"))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    parse(&text, &shown.to_string(), command)
}

fn parse(text: &str, shown: &str, command: &Command) -> Result<Vec<Line>, Failure> {
    let (mut lines, mut section) = (Vec::new(), None);
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        let origin = format!("line {number} of {shown}");
        let wrong = |what: String| Err(Failure::new(Kind::Usage, format!("{origin}: {what}")));
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            if !command.get_subcommands().any(|it| it.get_name() == name.trim()) {
                return wrong(format!("there is no command {}: see kwik --help", name.trim()));
            }
            section = Some(name.trim().to_owned());
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return wrong("it is none of `[command]`, `option = value` and `# comment`".into());
        };
        let (key, value) = (key.trim(), value.trim());
        let has = |it: &Command| find(it, key).is_some();
        let of = |name: &String| command.find_subcommand(name).is_some_and(has);
        if !section.as_ref().map_or_else(|| command.get_subcommands().any(has), of) {
            let whose = section.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            return wrong(format!("kwik{whose} has no option --{key}: see kwik{whose} --help"));
        }
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let (key, value) = (key.to_owned(), quoted.unwrap_or(value).to_owned());
        if value.is_empty() {
            return wrong(format!("{key} has no value"));
        }
        lines.push(Line { command: section.clone(), key, value, origin });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<String>, String> {
        let lines = parse(text, "F", &Arguments::command()).map_err(|failure| failure.message)?;
        let show = |line: &Line| format!("{:?} {}={}", line.command, line.key, line.value);
        Ok(lines.iter().map(show).collect())
    }

    #[test]
    fn a_file_has_options_of_all_commands_and_of_one() {
        let text =
            "# mine\n\nstate = /s\n[serve]\n listen=a:1\nlisten = \"b:2\"\n[get]\nquiet = yes";
        let expected = [
            "None state=/s",
            "Some(\"serve\") listen=a:1",
            "Some(\"serve\") listen=b:2",
            "Some(\"get\") quiet=yes",
        ];
        assert_eq!(lines(text).unwrap(), expected);
        for (text, line) in [
            ("[sevre]", "line 1 of F: there is no command sevre"),
            ("\nlisten", "line 2 of F: it is none of"),
            ("nothing = 1", "kwik has no option --nothing"),
            ("[get]\nlisten = a", "line 2 of F: kwik get has no option --listen: see kwik get"),
            ("config = /x", "no option --config"),
            ("[serve]\nend-with-stdin = yes", "no option --end-with-stdin"),
            ("state =", "state has no value"),
        ] {
            assert!(lines(text).unwrap_err().contains(line), "{text}");
        }
    }

    #[test]
    fn what_is_given_is_found_by_all_its_names() {
        let command = Arguments::command();
        let get = command.find_subcommand("get").unwrap();
        let given = |option: &str, words: &str| {
            let words: Vec<_> = words.split(' ').map(OsString::from).collect();
            is_given(find(get, option).unwrap(), &words)
        };
        assert!(given("retry", "kwik get --retry 3 x") && given("retry", "kwik get --retry=3 x"));
        assert!(given("quiet", "kwik get -q x") && !given("quiet", "kwik get -- -q"));
        assert!(!given("retry", "kwik get --retries x") && !given("quiet", "kwik get --quick q"));
    }
}
