//! Makes the trees. Sizes add up to the plan's bytes exactly; names, contents, modes and times follow from the plan.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timestamps, utimensat};

use crate::args::{Plan, Shape};
use crate::noise::Noise;

/// Files of a directory, about.
const FILES_A_DIR: u32 = 50;
/// Directories of a directory.
const DIRS_A_DIR: u32 = 16;
/// Modes of the mixed tree.
const MODES: [u32; 5] = [0o644, 0o644, 0o600, 0o755, 0o444];
/// How much is written at once.
const BLOCK: usize = 1 << 20;

/// Makes the tree at `root`, which must not exist.
pub(crate) fn make(root: &Path, plan: &Plan) -> io::Result<()> {
    let mut noise = Noise::new(u64::from(plan.files) ^ plan.bytes.rotate_left(32));
    let dirs = dirs(root, plan)?;
    let mut block = vec![0; BLOCK];
    for (n, size) in (0_u32..).zip(sizes(plan, &mut noise)) {
        let dir = &dirs[n as usize % dirs.len()];
        let is_text = plan.shape == Shape::Text || (plan.shape == Shape::Mixed && n % 3 == 1);
        let name = format!("f{n:06}.{}", if is_text { "log" } else { "bin" });
        let mut content = Noise::new(u64::from(n));
        let mode = if plan.shape == Shape::Mixed { MODES[content.below(5) as usize] } else { 0o644 };
        file(&dir.join(&name), size, mode, is_text, &mut content, &mut block)?;
        if plan.shape == Shape::Mixed && n % 60 == 7 {
            // every other link points at nothing
            link(if n % 120 == 7 { &name } else { "nowhere" }, &dir.join(format!("link{n:06}")), &mut content)?;
            let void = dir.join(format!("void{n:06}"));
            fs::create_dir(&void)?;
            finish_dir(&void, &mut content)?;
        }
    }
    // last and deepest first: files change the times of the directories they are made in
    for (n, dir) in dirs.iter().enumerate().rev() {
        finish_dir(dir, &mut Noise::new(n as u64))?;
    }
    Ok(())
}

/// The root, and a directory for every 50 files or so, 16 in each.
fn dirs(root: &Path, plan: &Plan) -> io::Result<Vec<PathBuf>> {
    fs::create_dir(root)?;
    let mut all = vec![root.to_owned()];
    for n in 1..=plan.files / FILES_A_DIR {
        let dir = all[((n - 1) / DIRS_A_DIR) as usize].join(format!("d{n:05}"));
        fs::create_dir(&dir)?;
        all.push(dir);
    }
    Ok(all)
}

/// The size of each file.
fn sizes(plan: &Plan, noise: &mut Noise) -> Vec<u64> {
    let log_uniform = |noise: &mut Noise, ratio: f64| ratio.powf(noise.fraction());
    let weight = |noise: &mut Noise| match plan.shape {
        Shape::OneBig | Shape::Text | Shape::Empty => 1.0,
        // one in fifty is empty
        Shape::Mixed if noise.below(50) == 0 => 0.0,
        // most are small, most of the bytes are in the few large ones
        Shape::Mixed => log_uniform(noise, 1e6),
        Shape::ManySmall => log_uniform(noise, 8192.0),
    };
    let mut weights: Vec<f64> = (0..plan.files).map(|_| weight(noise)).collect();
    if let Some(last) = weights.last_mut() {
        // so that the sum is not 0
        *last = last.max(1.0);
    }
    let sum: f64 = weights.iter().sum();
    let (mut before, mut weighed) = (0, 0.0);
    let mut sizes: Vec<u64> = weights
        .iter()
        .map(|weight| {
            weighed += weight;
            let end = ((plan.bytes as f64 * (weighed / sum)) as u64).clamp(before, plan.bytes);
            let size = end - before;
            before = end;
            size
        })
        .collect();
    if let Some(last) = sizes.last_mut() {
        *last += plan.bytes - before;
    }
    sizes
}

fn file(path: &Path, size: u64, mode: u32, is_text: bool, noise: &mut Noise, block: &mut [u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut left = size;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        let piece = &mut block[..len];
        if is_text {
            noise.fill_text(piece)
        } else {
            noise.fill(piece)
        }
        file.write_all(piece)?;
        left -= len as u64;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + time(noise)))
}

fn link(text: &str, path: &Path, noise: &mut Noise) -> io::Result<()> {
    symlink(text, path)?;
    let time = time(noise).try_into().map_err(io::Error::other)?;
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Mode and time of a directory in which nothing more is made.
fn finish_dir(path: &Path, noise: &mut Noise) -> io::Result<()> {
    let dir = File::open(path)?;
    dir.set_permissions(Permissions::from_mode(0o755))?;
    dir.set_times(FileTimes::new().set_modified(UNIX_EPOCH + time(noise)))
}

/// A moment of the years 2020 to 2023, to the nanosecond, since 1970.
fn time(noise: &mut Noise) -> Duration {
    Duration::new(1_577_836_800 + noise.below(126_000_000), noise.below(1_000_000_000) as u32)
}
