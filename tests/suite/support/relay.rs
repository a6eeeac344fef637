//! A wire between two nodes in user space, on 127.0.0.1, with the faults of real networks. It sees ciphertext only.
//!
//! [`TcpRelay`] breaks streams: after a number of bytes, at the border of an encrypted frame, by turning a bit over,
//! with a FIN, with a RST, or by saying nothing any more; it can be slow and far away. [`UdpRelay`] loses, doubles,
//! delays and damages datagrams. Both count what they hand over, and anybody can wait for a count.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(unused_imports, reason = "each test uses its part")]

#[path = "relay/course.rs"]
mod course;
#[path = "relay/tcp.rs"]
mod tcp;
#[cfg(test)]
#[path = "relay/tests.rs"]
mod tests;
#[path = "relay/udp.rs"]
mod udp;

use tokio::sync::watch;

pub(crate) use self::course::{Course, End, Fate, How};
pub(crate) use self::tcp::TcpRelay;
pub(crate) use self::udp::{UdpRelay, Weather};

/// Bytes handed over in one direction, over all connections.
#[derive(Debug)]
pub(crate) struct Counter(watch::Sender<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Counter {
    pub(crate) fn bytes(&self) -> u64 {
        *self.0.borrow()
    }

    /// Waits until so many bytes were handed over since the start.
    pub(crate) async fn reaches(&self, bytes: u64) {
        self.0.subscribe().wait_for(|now| *now >= bytes).await.expect("the counter lives as long as the relay");
    }

    /// As [`Self::reaches`], and gives the count that did.
    pub(crate) async fn passes(&self, bytes: u64) -> u64 {
        *self.0.subscribe().wait_for(|now| *now >= bytes).await.expect("the counter lives as long as the relay")
    }

    fn add(&self, bytes: usize) {
        self.0.send_modify(|now| *now += bytes as u64);
    }
}

/// Numbers without a pattern, the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Less than `below`.
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % below.max(1)
    }

    fn of_thousand(&mut self, chance: u64) -> bool {
        self.roll(1000) < chance
    }
}
