//! Tables of what was measured, and their bounds.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use crate::bounds::{BOUNDS, Bound};

/// Seeds that a table names.
const WORST: usize = 5;

/// One figure of one mix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    name: &'static str,
    value: f64,
    low_is_bad: bool,
}

/// The larger, the worse.
pub(crate) fn cost(name: &'static str, value: f64) -> Figure {
    Figure { name, value, low_is_bad: false }
}

/// The smaller, the worse.
pub(crate) fn gain(name: &'static str, value: f64) -> Figure {
    Figure { name, value, low_is_bad: true }
}

/// What was measured of one mix.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) seed: u64,
    /// Its links, in words.
    pub(crate) what: String,
    pub(crate) figures: Vec<Figure>,
}

impl Row {
    /// One of its figures.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        self.figures.iter().find(|figure| figure.name == name).unwrap().value
    }
}

/// The value of which that share is smaller or equal.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted[at.clamp(1, sorted.len()) - 1]
}

/// The figure `name` of all rows, and their seeds, the best first.
fn column(rows: &[Row], name: &str) -> (Vec<(f64, u64)>, bool) {
    let figure = |row: &Row| row.figures.iter().find(|figure| figure.name == name).copied();
    let low_is_bad = rows.iter().find_map(figure).is_some_and(|figure| figure.low_is_bad);
    let values = rows.iter().filter_map(|row| Some((figure(row)?.value, row.seed)));
    let mut values = values.collect::<Vec<_>>();
    values.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    if low_is_bad {
        values.reverse();
    }
    (values, low_is_bad)
}

fn line(rows: &[Row], name: &str) -> String {
    let (values, _) = column(rows, name);
    let worst = values.iter().rev().take(WORST).map(|(value, seed)| format!("{value:.3} ({seed})"));
    let worst = worst.collect::<Vec<_>>().join(", ");
    let mut sorted = values.iter().map(|(value, _)| *value).collect::<Vec<_>>();
    sorted.sort_by(f64::total_cmp);
    let [p10, median, p90] = [0.1, 0.5, 0.9].map(|share| quantile(&sorted, share));
    format!("| {name} | {median:.3} | {p10:.3} | {p90:.3} | {worst} |")
}

impl Bound {
    /// How many rows are past it; more than it allows is a violation.
    fn check(&self, rows: &[Row]) -> (String, bool) {
        let (values, low_is_bad) = column(rows, self.figure);
        let past = |value: f64| if low_is_bad { value < self.limit } else { value > self.limit };
        let count = values.iter().filter(|(value, _)| past(*value)).count();
        // One in ten of ten is one, whatever binary fractions say.
        let allowed = (values.len() as f64 * (1.0 - self.share) + 1e-6).floor() as usize;
        let holds = count <= allowed;
        let (Self { figure, limit, share, .. }, all) = (self, values.len());
        let side = if low_is_bad { "at least" } else { "at most" };
        let verdict = if holds { "holds" } else { "VIOLATED" };
        let share = share * 100.0;
        let text = format!("{figure} {side} {limit} in {share} %: {count} of {all} past it");
        (format!("  {verdict}: {text}"), holds)
    }
}

fn append_csv(family: &str, rows: &[Row]) {
    let Ok(file) = std::env::var("KWIK_MIX_CSV") else { return };
    let mut lines = String::new();
    for Row { seed, what, figures } in rows {
        write!(lines, "{family},{seed},{what}").unwrap();
        for Figure { name, value, .. } in figures {
            write!(lines, ",{name}={value:.6}").unwrap();
        }
        lines.push('\n');
    }
    let mut file = OpenOptions::new().create(true).append(true).open(file).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

/// Whether a bound that does not hold fails its test.
fn strict() -> bool {
    std::env::var("KWIK_MIX_STRICT").is_ok_and(|strict| strict == "1")
}

/// Prints the table of a family and which of its bounds hold. False if one does not and is strict.
#[must_use]
pub(crate) fn report(family: &str, rows: &[Row]) -> bool {
    let Some(first) = rows.first() else { return true };
    let mut text = format!("\n{family}: {} mixes\n\n", rows.len());
    text += "| | median | p10 | p90 | worst five (seed) |\n|---|---:|---:|---:|---|\n";
    for figure in &first.figures {
        writeln!(text, "{}", line(rows, figure.name)).unwrap();
    }
    text.push('\n');
    let mut all_hold = true;
    for bound in BOUNDS.iter().filter(|bound| family == bound.family) {
        let (verdict, holds) = bound.check(rows);
        writeln!(text, "{verdict}").unwrap();
        all_hold &= holds;
    }
    println!("{text}");
    append_csv(family, rows);
    all_hold || !strict()
}
