//! Networks that lose, double, delay and damage what they carry, or are slow (RELIABILITY F50, F51, F52, F58).

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use me_sync_node::net::TransportPreference;
use tempfile::TempDir;

use crate::support::relay::{Course, Dice, End, Fate, How, TcpRelay, UdpRelay, Weather};
use crate::support::tree::{assert_same, file};
use crate::support::wire::{Wire, import_over, listens, persist, sees, through};
use crate::support::{TestNode, completed};

/// One larger file and some small ones, `bytes` in all.
fn tree(bytes: usize) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("source");
    file(&source, "large", bytes / 2, 0o644);
    for n in 0..10 {
        file(&source, &format!("small/{n}"), bytes / 20, 0o600);
    }
    dir
}

/// A migration over QUIC through this weather, and how long it took.
async fn over_quic(bytes: usize, weather: Weather) -> Duration {
    let dir = tree(bytes);
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    let offer = a.offer(&source).await;
    let relay = UdpRelay::start(listens(&offer.ticket, true), 7).await;
    relay.weather(weather);
    let began = Instant::now();
    persist(&b, &through(&offer.ticket, None, Some(relay.address())), &target).await;
    completed(&offer.job).await;
    assert_same(&source, &target);
    assert!(relay.down().bytes() >= bytes as u64, "it did not come through the relay");
    began.elapsed()
}

#[expect(clippy::print_stderr, reason = "the figures are what the run was for")]
async fn all_weathers(all: &[(usize, Weather)]) {
    let took = join_all(all.iter().map(|(bytes, weather)| over_quic(*bytes, *weather))).await;
    for ((bytes, weather), took) in all.iter().zip(took) {
        eprintln!("{bytes} bytes over QUIC in {took:?} through {weather:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_doubled_late_and_distant_datagrams_change_nothing() {
    let calm = Weather::default();
    all_weathers(&[
        (2_000_000, Weather { loss: 10, ..calm }),
        (1_000_000, Weather { loss: 50, ..calm }),
        (300_000, Weather { loss: 200, ..calm }),
        (1_000_000, Weather { latency: Duration::from_millis(100), ..calm }),
        (1_000_000, Weather { late: 100, doubled: 100, ..calm }),
        (300_000, Weather { loss: 50, late: 50, doubled: 50, latency: Duration::from_millis(50), damaged: 0 }),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_datagrams_are_dropped_and_come_again() {
    all_weathers(&[(1_000_000, Weather { damaged: 50, ..Weather::default() })]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_turns_over_breaks_the_connection_and_never_a_file() {
    let dir = tree(400_000);
    let source = dir.path().join("source");
    let mut dice = Dice::new(52);
    let runs = (0..10).map(|_| {
        let at = Course { flip: Some(30 + dice.roll(400_000)), ..Course::default() };
        let up = Course { flip: Some(30 + dice.roll(3000)), ..Course::default() };
        // several connections in a row are hit
        let source = source.clone();
        async move {
            let wire = Wire::of(&source).await;
            let fate = move |n| match n {
                0 | 2 => Fate { down: at, ..Fate::default() },
                1 => Fate { up, ..Fate::default() },
                _ => Fate::default(),
            };
            let journey = wire.migrate(fate).await;
            assert!(wire.relay.connections() > 1, "{at:?} hit nothing");
            assert!(journey.payload <= 400_000 + 3 * (1 << 20), "{journey:?}");
        }
    });
    join_all(runs.collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distant_exporter_gets_a_second_connection_and_a_near_one_does_not() {
    let dir = tree(2_000_000);
    let far = Course { latency: Duration::from_millis(15), ..Course::default() };
    for (fate, connections) in [(Fate { up: far, down: far }, 2), (Fate::default(), 1)] {
        let wire = Wire::of(&dir.path().join("source")).await;
        wire.migrate(move |_| fate).await;
        assert_eq!(wire.relay.connections(), connections, "{fate:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_second_connection_a_distant_exporter_does_with_one() {
    let dir = tree(2_000_000);
    let far = Course { latency: Duration::from_millis(15), ..Course::default() };
    let dead = Course { end: End::After(10, How::Reset), ..far };
    let wire = Wire::of(&dir.path().join("source")).await;
    wire.migrate(move |n| Fate { up: far, down: if n == 1 { dead } else { far } }).await;
    assert_eq!(wire.relay.connections(), 2);
}

/// Through a line of so many bytes a second. A very slow one looks distant, which is worth two connections.
async fn slowly(source: &Path, rate: u64) -> Duration {
    let wire = Wire::of(source).await;
    let began = Instant::now();
    wire.migrate(move |_| Fate::slow(rate)).await;
    assert!(wire.relay.connections() <= 2, "a slow line was taken for a dead one");
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_one_megabit_is_slow_and_not_dead() {
    let dir = tree(600_000);
    let took = slowly(&dir.path().join("source"), 125_000).await;
    assert!(took > Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "longer than a stall takes"]
async fn a_modem_is_slow_and_not_dead() {
    let dir = tree(270_000);
    let took = slowly(&dir.path().join("source"), 7_000).await;
    assert!(took > Duration::from_secs(35), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_blocked_the_tree_comes_over_tcp() {
    // F58
    let dir = tree(200_000);
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    let offer = a.offer(&source).await;
    let udp = UdpRelay::start(listens(&offer.ticket, true), 1).await;
    udp.weather(Weather { loss: 1000, ..Weather::default() });
    let tcp = TcpRelay::start(listens(&offer.ticket, false)).await;
    let began = Instant::now();
    persist(&b, &through(&offer.ticket, Some(tcp.address()), Some(udp.address())), &target).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_same(&source, &target);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_udp_is_blocked_halfway_goes_on_over_tcp() {
    // F58
    let dir = tree(3_000_000);
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let (a, b) = (TestNode::start().await, TestNode::start().await);
    let offer = a.offer(&source).await;
    let udp = UdpRelay::start(listens(&offer.ticket, true), 1).await;
    let tcp = TcpRelay::start(listens(&offer.ticket, false)).await;
    tcp.open(false);
    let ticket = through(&offer.ticket, Some(tcp.address()), Some(udp.address()));
    let job = import_over(&b, &ticket, &target, TransportPreference::Auto).await;
    udp.down().reaches(700_000).await;
    udp.weather(Weather { loss: 1000, ..Weather::default() });
    tcp.open(true);
    let began = Instant::now();
    let over = |v: &me_sync_node::JobView| v.peer.as_ref().and_then(|p| p.transport.clone());
    sees(&job, "back over TCP", |v| over(v).as_deref() == Some("tcp")).await;
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    completed(&job).await;
    completed(&offer.job).await;
    assert!(job.view().payload_bytes < 3_000_000 + (4 << 20), "{}", job.view().payload_bytes);
    assert_same(&source, &target);
}
