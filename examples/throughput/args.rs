//! What is measured: the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Measures how fast me-sync moves a tree between two nodes on this machine.
///
/// The directory needs room for the data and a copy of it for each repetition, twice that with --warm.
#[derive(Debug, Parser)]
#[command(name = "throughput")]
pub(crate) struct Args {
    /// Kind of tree that is made and moved.
    #[arg(long, value_enum, default_value_t = Shape::Mixed)]
    pub(crate) shape: Shape,
    /// Sum of all file sizes, e.g. 800K, 512M, 2G [default: by shape].
    #[arg(long, value_parser = size)]
    size: Option<u64>,
    /// Number of files [default: by shape].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=900_000))]
    files: Option<u32>,
    /// Move this tree instead of one that is made.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["shape", "size", "files"])]
    pub(crate) source: Option<PathBuf>,
    /// Most streams of files at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub(crate) lanes: u8,
    /// Most bytes of a chunk, 1 to 1M.
    #[arg(long, default_value = "256K", value_parser = chunk)]
    pub(crate) chunk: u32,
    /// TCP with Noise, QUIC, or a pipe.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub(crate) transport: Transport,
    /// What is packed on its way.
    #[arg(long, value_enum, default_value_t = Compress::Auto)]
    pub(crate) compress: Compress,
    /// Hash everything before anything is sent.
    #[arg(long)]
    pub(crate) hash_first: bool,
    /// Repetitions.
    #[arg(short = 'n', long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    /// After each migration, the same one again with nothing changed, by new nodes with the same state.
    #[arg(long)]
    pub(crate) warm: bool,
    /// Compare both trees after each migration (not measured): names, kinds, bytes, permissions, times, link texts.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the temporary directory is made: the file system that is measured [default: the system's].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// What the tree is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// Incompressible files of one size; one, unless --files says otherwise.
    OneBig,
    /// A few large files and many small ones, text and not, in nested directories, with links and modes.
    Mixed,
    /// Small files of many sizes.
    ManySmall,
    /// Logs of one size, which compress well.
    Text,
    /// Files without content.
    Empty,
}

/// How the nodes talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// TCP with Noise and yamux.
    Tcp,
    /// QUIC v1.
    Quic,
    /// A pipe over a Unix socket, which has one lane and does not encrypt.
    Pipe,
}

/// What is packed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compress {
    /// What shrinks, while the connection is slow: on one machine nothing, as a rule.
    Auto,
    /// Nothing.
    Never,
    /// Whatever shrinks.
    Always,
}

/// The tree to make.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    /// Sum of all file sizes, in bytes.
    pub(crate) bytes: u64,
    pub(crate) files: u32,
}

impl Args {
    /// The tree to make, where none is given.
    pub(crate) fn plan(&self) -> Plan {
        let (bytes, files) = match self.shape {
            Shape::OneBig => (256 * MIB, 1),
            Shape::Mixed => (128 * MIB, 1_200),
            Shape::ManySmall => (5 * MIB, 5_000),
            Shape::Text => (128 * MIB, 64),
            Shape::Empty => (0, 5_000),
        };
        let bytes = if self.shape == Shape::Empty { 0 } else { self.size.unwrap_or(bytes) };
        Plan { shape: self.shape, bytes, files: self.files.unwrap_or(files) }
    }
}

fn size(raw: &str) -> Result<u64, String> {
    let digits = raw.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match raw[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 1,
        "K" | "KIB" => KIB,
        "M" | "MIB" => MIB,
        "G" | "GIB" => MIB << 10,
        _ => return Err("a number with K, M, G or nothing after it".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|e| format!("{digits:?}: {e}"))?;
    number.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

fn chunk(raw: &str) -> Result<u32, String> {
    match size(raw)? {
        bytes @ 1..=MIB => u32::try_from(bytes).map_err(|e| e.to_string()),
        _ => Err("1 byte to 1M".to_owned()),
    }
}
