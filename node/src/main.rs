//! The `me-sync` command: reads the command line, runs it, and ends with its exit code.

mod cli;

use std::process::ExitCode;

/// Freed memory up to this size is kept for the next who needs some, and twice as much at the end of the heap.
const KEPT: usize = 4 << 20;

fn main() -> ExitCode {
    keep_freed_memory();
    ExitCode::from(cli::main().code())
}

/// Encryption makes and drops a buffer for every 64 KiB that come in. glibc gives such memory back to the system and takes
/// it again page by page, which is a tenth of the time of one large file, unless it has learnt better: from the first large
/// block that is freed on (`mallopt(3)`, on the dynamic `M_MMAP_THRESHOLD`). Under other allocators this does nothing.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT)));
}
