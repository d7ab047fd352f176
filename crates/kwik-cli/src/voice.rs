//! What the command says on standard error. Where that cannot be written, what is done counts all
//! the same.

use std::{
    io::{self, ErrorKind, Write},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use kwik::escape;
use serde_json::{Value, json};

/// How long a standard error that takes nothing now is waited for, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(5);

/// `1 edge`, `2 edges`.
pub(crate) fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// In what form this process speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Lines, and a bar on a terminal.
    Auto,
    Lines,
    /// JSON, an object a line.
    Json,
    /// Lines without progress.
    Silent,
    /// Nothing but why it failed.
    Quiet,
}

static FORM: OnceLock<Form> = OnceLock::new();

/// Chooses the form, once.
pub(crate) fn choose(form: Form) {
    FORM.set(form).ok();
}

pub(crate) fn form() -> Form {
    FORM.get().copied().unwrap_or(Form::Auto)
}

/// Says a line about what goes on.
pub(crate) fn note(text: &str) {
    match form() {
        Form::Auto | Form::Lines | Form::Silent => say(text),
        Form::Json => event(&json!({ "event": "note", "text": text })),
        Form::Quiet => {}
    }
}

/// Says an event, where events are wanted.
pub(crate) fn event(event: &Value) {
    if form() == Form::Json {
        say(&json_line(event));
    }
}

/// JSON on one line that a terminal or a log can show: what would act there instead of showing is
/// written as `\u202e`, say, which means the same to who reads it as JSON.
pub(crate) fn json_line(value: &Value) -> String {
    let mut value = value.clone();
    // As scripts and people know it, whatever crate has objects keep the order in which they were
    // made.
    value.sort_all_objects();
    let mut line = String::new();
    for character in value.to_string().chars() {
        let plain = matches!(character, ' '..='~');
        if plain || !escape(character).to_string().starts_with('\\') {
            line.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            line.push_str(&format!("\\u{unit:04x}"));
        }
    }
    line
}

/// Says a line, whatever the form.
pub(crate) fn say(line: &str) {
    let text = format!("{line}\n");
    let mut left = text.as_bytes();
    let end = Instant::now() + PATIENCE;
    let mut stderr = io::stderr().lock();
    while !left.is_empty() {
        match stderr.write(left) {
            Ok(written) if written > 0 => left = &left[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                thread::sleep(RETRY);
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_and_does_nothing_to_a_terminal() {
        let text = "a\n\u{1b}[31m\u{7f}\u{9b}\u{202e}gpj\u{2028}\u{e0041}\\\"Größe 🦀";
        let value = json!({ "name": text, text: 1 });
        let line = json_line(&value);
        assert_eq!(escape(&line).to_string(), line);
        assert!(line.contains("\\u202e") && line.contains("Größe 🦀"), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
