//! Each code of requirement 9.1 and each policy of 7.4 and 9.2 has a test, which docs/recovery.md
//! names: where one has none, or the test is gone or looks at something else, this fails.

#![allow(clippy::unwrap_used, reason = "test code")]
#![allow(clippy::disallowed_methods, reason = "tests look at their own sources")]

use std::path::{Path, PathBuf};

use kwik::Code;

/// A row of a table: its cells.
type Cells = Vec<String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the table under a heading of docs/recovery.md.
fn table(heading: &str) -> Vec<Cells> {
    let document = read(&root().join("docs/recovery.md"));
    let (_, section) = document.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    lines
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().into()).collect())
        .collect()
}

/// The words that a cell has in backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// All sources below a folder, or of one file with what is beside it if it is a test of several.
fn sources(at: &Path) -> String {
    if at.extension().is_some() {
        let folder = at.parent().unwrap();
        let one = folder.ends_with("tests");
        return if one { read(at) } else { sources(folder) };
    }
    let entries = std::fs::read_dir(at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
    let mut paths = entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    paths.sort();
    let parts = paths.iter().map(|path| if path.is_dir() { sources(path) } else { read(path) });
    parts.collect()
}

/// The tests that a cell names, each with the sources where it is.
fn tests(cell: &str) -> Vec<(String, String)> {
    let mut at = String::new();
    let mut found = Vec::new();
    for name in names(cell) {
        if let Some(module) = name.strip_prefix("kwik_proto::") {
            let module = root().join("crates/kwik-proto/src").join(module);
            at = sources(&module);
        } else if name.contains(".rs") || name.ends_with("hostile_table") {
            at = sources(&root().join("crates/kwik-transport/tests").join(name));
        } else {
            found.push((name.to_owned(), at.clone()));
        }
    }
    found
}

/// The named test exists: a function, or a row of a table that makes one.
fn exists(test: &str, source: &str) -> bool {
    source.contains(&format!("fn {test}()")) || source.contains(&format!("\n    {test}: "))
}

#[test]
fn each_code_is_raised_by_a_test_that_is_named() {
    let rows = table("Which test shows which code");
    let mut last = Vec::new();
    for code in Code::ALL.iter().filter(|code| **code != Code::NoError) {
        let row = rows.iter().find(|row| names(&row[0]) == [code.name()]);
        let row = row.unwrap_or_else(|| panic!("{code} has no test in docs/recovery.md"));
        let named = tests(&row[2]);
        let named = if row[2].starts_with("the same") && named.is_empty() { last } else { named };
        assert!(!named.is_empty(), "{code}: {}", row[2]);
        for (test, source) in &named {
            assert!(exists(test, source), "{code}: there is no test {test}");
        }
        // One of them looks at the code itself, or at the error that stands for it.
        let looked = format!("::{code:?}");
        assert!(named.iter().any(|(_, source)| source.contains(&looked)), "{looked}");
        last = named;
    }
}

/// The choices of a policy, as its source has them, and whether each is the default.
fn choices(policy: &str) -> Vec<(String, bool)> {
    let source = sources(&root().join("crates/kwik-proto/src/config"));
    let (_, body) = source.split_once(&format!("pub enum {policy} {{\n")).unwrap();
    let lines = body.split("\n}").next().unwrap().lines().map(str::trim).collect::<Vec<_>>();
    let own = |line: &str| line.chars().next().is_some_and(char::is_uppercase);
    let choices = (0..lines.len()).filter(|at| own(lines[*at]));
    choices
        .map(|at| (lines[at].trim_end_matches(',').to_owned(), lines[at - 1] == "#[default]"))
        .collect()
}

#[test]
fn each_policy_is_at_work_in_a_test_that_is_named() {
    let mut rows = table("Which test shows which policy");
    for at in 1..rows.len() {
        if rows[at][0].is_empty() {
            rows[at][0] = rows[at - 1][0].clone();
        }
    }
    let policies = [
        "ConflictPolicy",
        "AggregationFallback",
        "SecondaryWrites",
        "MetadataRecovery",
        "WindowRecovery",
    ];
    for policy in policies {
        let all = choices(policy);
        assert!(all.len() >= 2, "{policy}: {all:?}");
        for (choice, default) in all {
            let own = |row: &&Cells| {
                names(&row[0]).contains(&policy) && names(&row[1]).contains(&choice.as_str())
            };
            let row = rows.iter().find(own);
            let row = row.unwrap_or_else(|| panic!("{policy}::{choice} has no test"));
            let looked = format!("{policy}::{choice}");
            let named = tests(&row[2]);
            // A row may say that the next ones show it.
            assert!(!named.is_empty() || row[2].starts_with("the next"), "{looked}: {}", row[2]);
            for (test, source) in &named {
                assert!(exists(test, source), "{looked}: there is no test {test}");
            }
            // What is the default needs no word.
            let works = |(_, source): &(String, String)| source.contains(&format!("::{choice}"));
            assert!(named.is_empty() || default || named.iter().any(works), "{looked}");
        }
    }
    for row in &rows {
        for (test, source) in tests(&row[2]) {
            assert!(exists(&test, &source), "{row:?}: there is no test {test}");
        }
    }
}
