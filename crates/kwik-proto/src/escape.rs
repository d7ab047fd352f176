//! Foreign text as one line that a terminal or a log can show.

use std::fmt::{self, Display, Write};

/// `text` with every character escaped that would act instead of showing.
///
/// Text of a peer becomes part of an error, a log field or a terminal line only through this.
/// Controls (ESC, BEL, newlines, C1), line and paragraph separators, marks that turn the direction
/// of writing, and what has no width are written as in a Rust literal, such as `\n` or `\u{1b}`.
/// All else stays as it is, the backslash too, so that text may safely pass through twice.
///
/// ```
/// # use kwik_proto::escape;
/// assert_eq!(escape("gone\n\u{1b}[31mERROR").to_string(), r"gone\n\u{1b}[31mERROR");
/// ```
pub const fn escape<T: Display>(text: T) -> Escaped<T> {
    Escaped(text)
}

/// Shows what it holds escaped. See [`escape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Escapes what is written through it.
struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in text.char_indices().filter(|(_, character)| acts(*character)) {
            self.0.write_str(&text[plain..at])?;
            write!(self.0, "{}", character.escape_default())?;
            plain = at + character.len_utf8();
        }
        self.0.write_str(&text[plain..])
    }
}

/// Whether a character moves, hides or reorders others, or leaves no mark of its own.
fn acts(character: char) -> bool {
    // C0, DEL and C1.
    character.is_control()
        || matches!(
            character,
            '\u{ad}' // soft hyphen
            | '\u{34f}' // combining grapheme joiner
            | '\u{61c}' // Arabic letter mark
            | '\u{115f}'..='\u{1160}' | '\u{3164}' | '\u{ffa0}' // Hangul fillers
            | '\u{17b4}'..='\u{17b5}' // Khmer inherent vowels
            | '\u{180b}'..='\u{180f}' // Mongolian selectors and vowel separator
            | '\u{200b}'..='\u{200f}' // zero width, marks of direction
            | '\u{2028}'..='\u{202e}' // line and paragraph separator, embeddings, overrides
            | '\u{2060}'..='\u{206f}' // word joiner, invisible operators, isolates, deprecated
            | '\u{feff}' // byte order mark
            | '\u{fff0}'..='\u{fffb}' // unassigned and interlinear annotation
            | '\u{1bca0}'..='\u{1bca3}' // shorthand format controls
            | '\u{1d173}'..='\u{1d17a}' // musical format controls
            | '\u{e0000}'..='\u{e0fff}' // tags and further variation selectors
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_escaped() {
        for (text, shown) in [
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1b}]0;title\u{7}", r"\u{1b}]0;title\u{7}"),
            ("\0\u{7f}\u{80}\u{85}\u{9b}31m", r"\u{0}\u{7f}\u{80}\u{85}\u{9b}31m"),
            ("gnp.\u{202e}exe\u{202c}", r"gnp.\u{202e}exe\u{202c}"),
            ("\u{2066}\u{2067}\u{2068}\u{2069}", r"\u{2066}\u{2067}\u{2068}\u{2069}"),
            ("\u{200b}\u{200d}\u{200e}\u{200f}\u{61c}", r"\u{200b}\u{200d}\u{200e}\u{200f}\u{61c}"),
            ("\u{2028}\u{2029}\u{feff}\u{ad}", r"\u{2028}\u{2029}\u{feff}\u{ad}"),
            ("\u{e0041}\u{e0100}", r"\u{e0041}\u{e0100}"),
        ] {
            assert_eq!(escape(text).to_string(), shown);
        }
    }

    #[test]
    fn what_shows_stays() {
        for text in ["", "plain text, 100 %", r"C:\new", "Größe Ω 大きさ שלום مرحبا 🦀", "\"'`$()"]
        {
            assert_eq!(escape(text).to_string(), text);
        }
    }

    #[test]
    fn escaping_twice_changes_nothing_and_leaves_one_line() {
        let all: String = ('\0'..=char::MAX).collect();
        let once = escape(&all).to_string();
        assert_eq!(escape(&once).to_string(), once);
        assert_eq!(once.lines().count(), 1);
        assert!(!once.contains(char::is_control));
    }

    #[test]
    fn pieces_of_a_display_are_escaped_each() {
        let shown = escape(format_args!("{}: {:?} {}", "a\n", "b\u{202e}", '\u{1b}')).to_string();
        assert_eq!(shown, r#"a\n: "b\u{202e}" \u{1b}"#);
    }
}
