//! Several nodes in one process, on real sockets (127.0.0.1, mDNS off) and real files.

mod archives;
mod between;
mod codes;
mod faults;
mod hostile_exporter;
mod hostile_frames;
mod hostile_importer;
mod hostile_packed;
mod isolation;
mod late;
mod limits;
mod packed;
mod pipes;
mod probes;
mod python;
mod retry;
mod review;
mod several;
mod sparse;
mod stalls;
mod strands;
mod support;
mod tickets;
mod transfer;
mod unchanged;
