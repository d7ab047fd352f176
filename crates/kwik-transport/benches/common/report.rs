//! Rounds, medians, and what is printed of them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Settings, median};

/// `[--json FILE] [--rounds N] [--mib N] [--ratio N] [--plain] [--profile kwik|quinn] [--case TEXT]
/// [NAMES...]`.
#[derive(Debug)]
pub struct Options {
    /// As they were given.
    given: Vec<String>,
    json: Option<PathBuf>,
    rounds: usize,
    /// Payload of a bulk transfer, in MiB.
    pub mib: usize,
    /// What KWIK is told, and quinn as far as it knows it: `--ratio` streams share a QUIC stream,
    /// `--plain` has KWIK use QUIC's own socket.
    pub settings: Settings,
    /// The one that runs alone, for a profiler.
    profile: Option<String>,
    /// Part of the names of the cases to run.
    case: String,
    pub names: Vec<String>,
}

impl Options {
    pub fn parse() -> Self {
        let given: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
        let mut options = Self {
            given: given.clone(),
            json: None,
            rounds: 5,
            mib: 512,
            settings: Settings::default(),
            profile: None,
            case: String::new(),
            names: Vec::new(),
        };
        let mut args = given.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            match arg.as_str() {
                "--json" => options.json = Some(value().into()),
                "--rounds" => options.rounds = value().parse().unwrap(),
                "--mib" => options.mib = value().parse().unwrap(),
                "--ratio" => {
                    let ratio = value().parse().unwrap();
                    options.settings.session.set_streams_per_quic_stream(ratio).unwrap();
                }
                "--plain" => options.settings.quic.merge_sends = false,
                "--profile" => options.profile = Some(value()),
                "--case" => options.case = value(),
                _ => options.names.push(arg),
            }
        }
        options
    }
}

/// One figure of a run, and what it shall be.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    name: &'static str,
    unit: &'static str,
    compared: Compared,
    target: Option<Target>,
}

/// How KWIK's figure is set against quinn's.
#[derive(Debug, Clone, Copy)]
enum Compared {
    Ratio,
    Difference,
    /// It stands alone.
    Not,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Metric {
    const fn new(name: &'static str, unit: &'static str, compared: Compared) -> Self {
        Self { name, unit, compared, target: None }
    }

    /// KWIK's over quinn's.
    pub const fn ratio(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, unit, Compared::Ratio)
    }

    /// KWIK's less quinn's.
    pub const fn difference(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, unit, Compared::Difference)
    }

    /// KWIK's alone.
    pub const fn alone(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, unit, Compared::Not)
    }

    pub const fn at_least(mut self, least: f64) -> Self {
        self.target = Some(Target::AtLeast(least));
        self
    }

    pub const fn at_most(mut self, most: f64) -> Self {
        self.target = Some(Target::AtMost(most));
        self
    }

    fn compare(&self, kwik: f64, quinn: f64) -> f64 {
        match self.compared {
            Compared::Ratio => kwik / quinn,
            Compared::Difference => kwik - quinn,
            Compared::Not => kwik,
        }
    }
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// All rounds of one figure of one case.
struct Row {
    case: String,
    metric: Metric,
    kwik: Vec<f64>,
    quinn: Vec<f64>,
}

impl Row {
    /// The median of the rounds' own comparisons, so that what disturbs a round does not count.
    fn compared(&self) -> f64 {
        let pairs = self.kwik.iter().enumerate();
        let each: Vec<_> = match self.quinn.is_empty() {
            true => self.kwik.clone(),
            false => pairs.map(|(i, kwik)| self.metric.compare(*kwik, self.quinn[i])).collect(),
        };
        median(&each)
    }

    fn is_met(&self) -> Option<bool> {
        self.metric.target.map(|target| target.is_met(self.compared()))
    }

    fn markdown(&self) -> String {
        let Metric { name, unit, compared, target } = self.metric;
        let quinn = if self.quinn.is_empty() { String::new() } else { short(median(&self.quinn)) };
        let against = match compared {
            Compared::Ratio => format!("{:.3}", self.compared()),
            Compared::Difference => format!(
                "{}{}",
                if self.compared() < 0.0 { "" } else { "+" },
                short(self.compared())
            ),
            Compared::Not => String::new(),
        };
        let target = match target {
            Some(Target::AtLeast(least)) => format!("≥ {least}"),
            Some(Target::AtMost(most)) => format!("≤ {most}"),
            None => String::new(),
        };
        let met = self.is_met().map_or("", |met| if met { "yes" } else { "**no**" });
        let (case, kwik) = (&self.case, short(median(&self.kwik)));
        format!("| {case} | {name}, {unit} | {kwik} | {quinn} | {against} | {target} | {met} |")
    }

    fn json(&self, bench: &str) -> Value {
        json!({
            "bench": bench,
            "case": self.case,
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "kwik": { "median": median(&self.kwik), "rounds": self.kwik },
            "quinn": (!self.quinn.is_empty())
                .then(|| json!({ "median": median(&self.quinn), "rounds": self.quinn })),
            "compared": self.compared(),
            "met": self.is_met(),
        })
    }
}

/// Three significant digits.
fn short(value: f64) -> String {
    let digits =
        if value == 0.0 { 0 } else { (2.0 - value.abs().log10().floor()).max(0.0) as usize };
    format!("{value:.digits$}")
}

/// What was measured so far.
pub struct Report {
    pub options: Options,
    bench: &'static str,
    rows: Vec<Row>,
    values: Vec<Value>,
}

impl Report {
    pub fn new(options: Options) -> Self {
        Self { options, bench: "", rows: Vec::new(), values: Vec::new() }
    }

    /// Runs a bench unless others were asked for, and prints its table.
    pub fn bench(&mut self, name: &'static str, run: impl FnOnce(&mut Self)) {
        let names = &self.options.names;
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            return;
        }
        self.bench = name;
        run(self);
        println!("\n### {name}\n");
        println!("| case | figure | KWIK | quinn | against quinn | target | met |");
        println!("|---|---|---:|---:|---:|---:|---|");
        for row in self.rows.drain(..) {
            println!("{}", row.markdown());
            self.values.push(row.json(name));
        }
    }

    /// Runs both in turn; the first round warms up.
    pub fn compare<const N: usize>(
        &mut self,
        case: &str,
        metrics: [Metric; N],
        mut kwik: impl FnMut() -> [f64; N],
        mut quinn: impl FnMut() -> [f64; N],
    ) {
        if !case.contains(&self.options.case) {
            return;
        }
        match self.options.profile.as_deref() {
            Some("quinn") => return self.measure(case, metrics, quinn),
            Some(_) => return self.measure(case, metrics, kwik),
            None => {}
        }
        let mut rows = metrics.map(|metric| Row::new(case, metric));
        for round in 0..=self.options.rounds {
            let (ours, theirs) = (kwik(), quinn());
            if round == 0 {
                continue;
            }
            eprintln!("{} / {case} / {round}: {ours:.3?} {theirs:.3?}", self.bench);
            for (row, (ours, theirs)) in rows.iter_mut().zip(ours.into_iter().zip(theirs)) {
                row.kwik.push(ours);
                row.quinn.push(theirs);
            }
        }
        self.rows.extend(rows);
    }

    /// Measures KWIK alone.
    pub fn measure<const N: usize>(
        &mut self,
        case: &str,
        metrics: [Metric; N],
        mut kwik: impl FnMut() -> [f64; N],
    ) {
        if !case.contains(&self.options.case) {
            return;
        }
        let mut rows = metrics.map(|metric| Row::new(case, metric));
        for round in 0..=self.options.rounds {
            let ours = kwik();
            if round > 0 {
                eprintln!("{} / {case} / {round}: {ours:.3?}", self.bench);
                rows.iter_mut().zip(ours).for_each(|(row, ours)| row.kwik.push(ours));
            }
        }
        self.rows.extend(rows);
    }

    /// Writes the JSON if that was asked for.
    pub fn finish(self) {
        if let Some(path) = &self.options.json {
            let text = serde_json::to_string_pretty(
                &json!({ "options": self.options.given, "rows": self.values }),
            )
            .unwrap();
            std::fs::write(path, text + "\n").unwrap();
        }
    }
}

impl Row {
    fn new(case: &str, metric: Metric) -> Self {
        Self { case: case.to_owned(), metric, kwik: Vec::new(), quinn: Vec::new() }
    }
}
