//! Two network namespaces joined by a pair of virtual Ethernet devices; multicast works inside, nothing leads out.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::device::Device;
use crate::place::tool;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The pair. Both namespaces go with it.
pub(crate) struct Wire {
    one: String,
    two: String,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let tag = format!("{:x}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let wire = Self { one: format!("mesync-{tag}-a"), two: format!("mesync-{tag}-b") };
        let (one, two) = (&wire.one, &wire.two);
        tool(&format!("ip netns add {one}"));
        tool(&format!("ip netns add {two}"));
        tool(&format!("ip -n {one} link add veth0 type veth peer name veth0 netns {two}"));
        for (namespace, host) in [(one, 1), (two, 2)] {
            tool(&format!("ip -n {namespace} address add 10.77.0.{host}/24 dev veth0"));
            tool(&format!("ip -n {namespace} link set lo up"));
            tool(&format!("ip -n {namespace} link set veth0 up"));
            tool(&format!("ip -n {namespace} route add 224.0.0.0/4 dev veth0"));
        }
        wire
    }

    /// The exporter's end.
    pub(crate) fn near(&self, device: Device) -> Device {
        device.in_namespace(&self.one)
    }

    /// The importer's end.
    pub(crate) fn far(&self, device: Device) -> Device {
        device.in_namespace(&self.two)
    }

    /// Slows what the near end sends.
    pub(crate) fn throttle(&self, rate: &str) {
        tool(&format!("tc -n {} qdisc replace dev veth0 root tbf rate {rate} burst 64kb latency 300ms", self.one));
    }

    pub(crate) fn unthrottle(&self) {
        tool(&format!("tc -n {} qdisc del dev veth0 root", self.one));
    }

    /// The link goes down.
    pub(crate) fn down(&self) {
        tool(&format!("ip -n {} link set veth0 down", self.two));
    }

    /// And comes back.
    pub(crate) fn up(&self) {
        tool(&format!("ip -n {} link set veth0 up", self.two));
        // went with the link
        tool(&format!("ip -n {} route add 224.0.0.0/4 dev veth0", self.two));
    }

    /// The near end has another address from now on.
    pub(crate) fn move_near(&self) {
        tool(&format!("ip -n {} address add 10.77.0.11/24 dev veth0", self.one));
        tool(&format!("ip -n {} address del 10.77.0.1/24 dev veth0", self.one));
        // a later address of one network goes with the first
        tool(&format!("ip -n {} address replace 10.77.0.11/24 dev veth0", self.one));
        tool(&format!("ip -n {} route replace 224.0.0.0/4 dev veth0", self.one));
    }

    /// The far end has another address from now on.
    pub(crate) fn move_far(&self) {
        tool(&format!("ip -n {} address flush dev veth0", self.two));
        tool(&format!("ip -n {} address add 10.77.0.12/24 dev veth0", self.two));
        tool(&format!("ip -n {} route replace 224.0.0.0/4 dev veth0", self.two));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.one, &self.two] {
            // the veth pair goes with the first
            Command::new("ip").args(["netns", "del", namespace]).status().ok();
        }
    }
}
