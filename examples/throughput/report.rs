//! The figures for people and for programs.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use crate::Outcome;
use crate::args::Args;
use crate::migrate::Migration;

const MIB: f64 = (1_u64 << 20) as f64;

const LEGEND: &str = "\
Times in seconds; CPU and memory are those of both ends and of this program together. The phases are seen as the jobs
show them, four times a second: each is known to 0.25 s, and one that was too short to be seen (-) is in the one before.
";

/// One migration of the benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    /// Which repetition, from 1.
    pub(crate) n: u32,
    /// The one after it, with nothing changed.
    pub(crate) warm: bool,
    #[serde(flatten)]
    pub(crate) measured: Migration,
}

/// All of them.
pub(crate) struct Report {
    /// The arguments that make a difference.
    settings: serde_json::Value,
    title: String,
    runs: Vec<Run>,
}

/// The columns: name, width, decimals, and the figure.
type Column = (&'static str, usize, usize, Figure);
/// None: too short to be seen.
type Figure = fn(&Migration) -> Option<f64>;

const COLUMNS: [Column; 12] = [
    ("wall", 8, 3, |m| Some(m.wall)),
    ("MiB/s", 9, 1, |m| Some(m.bytes as f64 / MIB / m.wall)),
    ("files/s", 9, 0, |m| Some(m.files as f64 / m.wall)),
    ("walk", 8, 3, |m| m.phases.walk),
    ("hash", 8, 3, |m| m.phases.hash),
    ("manifest", 9, 3, |m| m.phases.manifest),
    ("transfer", 9, 3, |m| m.phases.transfer),
    ("verify+sync", 12, 3, |m| m.phases.verify),
    ("swap", 8, 3, |m| m.phases.swap),
    ("user", 7, 2, |m| Some(m.cpu_user)),
    ("sys", 7, 2, |m| Some(m.cpu_system)),
    ("peak MiB", 9, 1, |m| Some(m.peak_memory as f64 / MIB)),
];

impl Report {
    pub(crate) fn new(args: &Args, runs: Vec<Run>) -> Self {
        let tree = match &args.source {
            Some(source) => json!({ "source": source }),
            None => json!(args.plan()),
        };
        let optimized = !cfg!(debug_assertions);
        let settings = json!({ "tree": tree, "lanes": args.lanes, "chunk": args.chunk, "transport": args.transport, "compress": args.compress,
            "repetitions": args.repeat, "optimized": optimized });
        let what = match &args.source {
            Some(source) => source.display().to_string(),
            None => name(&args.shape),
        };
        let (files, bytes) = runs.first().map_or((0, 0), |r| (r.measured.files, r.measured.bytes));
        let title = format!(
            "{what}: {files} files, {:.1} MiB; {}, lanes: {}, chunks of {} KiB, compress: {}{}",
            bytes as f64 / MIB,
            name(&args.transport),
            args.lanes,
            f64::from(args.chunk) / 1024.0,
            name(&args.compress),
            if optimized { "" } else { "; NOT OPTIMIZED: build with --release" },
        );
        Self { settings, title, runs }
    }

    /// A table: each run, then the medians.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("{}\n{:<12}", self.title, "run");
        for (name, width, ..) in COLUMNS {
            // writing to a String has no way to fail
            write!(out, "{name:>width$}").ok();
        }
        out.push('\n');
        for run in &self.runs {
            let name = if run.warm { format!("{} again", run.n) } else { run.n.to_string() };
            line(&mut out, &name, |figure| figure(&run.measured));
        }
        for (name, warm) in [("median", false), ("median again", true)] {
            if self.of(warm).next().is_some() {
                line(&mut out, name, |figure| self.median(warm, figure));
            }
        }
        out.push_str(LEGEND);
        out
    }

    /// The same for programs: seconds and bytes; null for what was not seen.
    pub(crate) fn json(&self) -> Outcome<String> {
        let medians = |warm: bool| -> serde_json::Value {
            if self.of(warm).next().is_none() {
                return serde_json::Value::Null;
            }
            let names = COLUMNS.iter().map(|(name, _, _, figure)| {
                let name = name.to_lowercase().replace([' ', '+'], "_").replace("/s", "_per_s");
                (name, json!(self.median(warm, *figure)))
            });
            serde_json::Value::Object(names.collect())
        };
        let report = json!({ "settings": self.settings, "runs": self.runs, "median": medians(false),
            "median_again": medians(true) });
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    }

    fn of(&self, warm: bool) -> impl Iterator<Item = &Migration> {
        self.runs.iter().filter(move |run| run.warm == warm).map(|run| &run.measured)
    }

    fn median(&self, warm: bool, figure: Figure) -> Option<f64> {
        let mut figures: Vec<f64> = self.of(warm).filter_map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        match figures.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(figures[middle]),
            _ => Some(f64::midpoint(figures[middle - 1], figures[middle])),
        }
    }
}

/// As it is typed.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

fn line(out: &mut String, name: &str, value: impl Fn(Figure) -> Option<f64>) {
    write!(out, "{name:<12}").ok();
    for (_, width, decimals, figure) in COLUMNS {
        match value(figure) {
            Some(value) => write!(out, "{value:>width$.decimals$}").ok(),
            None => write!(out, "{:>width$}", "-").ok(),
        };
    }
    out.push('\n');
}
