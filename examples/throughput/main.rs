//! How fast a tree moves: two nodes in one process, over real sockets on 127.0.0.1, with state and trees in a
//! temporary directory.
//!
//!     cargo run --release --example throughput -- --shape mixed --size 1G -n 5
//!
//! The data is the same in every run of the same arguments. Both nodes share the process, so CPU time and memory are
//! those of both ends together.

mod args;
mod compare;
mod data;
mod measure;
mod migrate;
mod noise;
mod report;

use std::error::Error;
use std::io::Write as _;
use std::path::Path;

use clap::Parser as _;

use self::args::Args;
use self::report::{Report, Run};

/// What may go wrong here ends the benchmark.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::parse();
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let source = match &args.source {
        Some(source) => source.canonicalize()?,
        None => {
            let tree = dir.path().join("source");
            data::make(&tree, &args.plan())?;
            tree
        }
    };
    let mut runs = Vec::new();
    for n in 1..=args.repeat {
        // every repetition has nodes and a target of its own, and what it wrote stays until the end: a file system
        // that has just deleted many files creates new ones several times slower
        let place = dir.path().join(format!("run-{n}"));
        std::fs::create_dir(&place)?;
        runs.push(Run { n, warm: false, measured: one(&args, &source, &place, dir.path()).await? });
        if args.warm {
            runs.push(Run { n, warm: true, measured: one(&args, &source, &place, dir.path()).await? });
        }
    }
    let report = Report::new(&args, runs);
    let text = if args.json { report.json()? } else { report.table() };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// One migration of `source` into the target of `place`, measured and, if wished, compared.
async fn one(args: &Args, source: &Path, place: &Path, dir: &Path) -> Outcome<migrate::Migration> {
    // what earlier steps left unwritten is no part of this one
    rustix::fs::syncfs(std::fs::File::open(dir)?)?;
    let migration = migrate::migrate(args, source, place).await?;
    if args.verify {
        let (source, target) = (source.to_owned(), migrate::target(place));
        if let Some(difference) =
            tokio::task::spawn_blocking(move || compare::first_difference(&source, &target)).await??
        {
            return Err(format!("the trees differ: {difference}").into());
        }
    }
    Ok(migration)
}
