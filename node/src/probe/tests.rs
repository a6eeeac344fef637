use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::*;
use crate::limit::{Limiter, Rate};

fn marks(all: &[(u64, u64)]) -> Vec<Mark> {
    all.iter().map(|(ms, bytes)| Mark { at: Duration::from_millis(*ms), bytes: *bytes }).collect()
}

fn pipe() -> (impl AsyncRead + AsyncWrite + Unpin, impl AsyncRead + AsyncWrite + Unpin) {
    let (here, there) = tokio::io::duplex(1 << 20);
    (here.compat(), there.compat())
}

/// The end that serves, as the coordinator has it do that.
async fn serving(mut io: impl AsyncRead + AsyncWrite + Unpin, throttle: Throttle) {
    let probe = asked(&mut io).await.expect("a request");
    serve(&mut io, probe, &throttle).await;
    close(io).await;
}

async fn ask(io: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: u32) -> Frame {
    FrameWriter::new(&mut *io).send(&Frame::Probe(Probe { bytes })).await.unwrap();
    link::read_one(io).await.unwrap()
}

#[test]
fn the_time_in_which_a_connection_opens_its_windows_does_not_count() {
    let all = marks(&[(0, 1000), (250, 2000), (500, 27_000), (1000, 77_000)]);
    assert_eq!(rate(&all, all[3]), Some(100_000));
}

#[test]
fn a_moment_in_which_the_machine_did_something_else_does_not_count() {
    let all = marks(&[(0, 0), (200, 20_000), (400, 40_000), (600, 60_000), (1100, 61_000), (1200, 71_000)]);
    assert_eq!(rate(&all, all[5]), Some(100_000));
}

#[test]
fn what_came_at_once_or_not_at_all_has_no_rate() {
    let once = marks(&[(0, 64_000)]);
    assert_eq!(rate(&once, once[0]), None);
    assert_eq!(rate(&[], Mark { at: Duration::ZERO, bytes: 0 }), None);
    let two = marks(&[(0, 1000), (100, 11_000)]);
    assert_eq!(rate(&two, two[1]), Some(100_000));
}

// SPEC §5.12
#[tokio::test]
async fn nobody_gets_more_noise_than_is_allowed_whatever_he_asks_for() {
    for (asked, given) in [(100_000, 100_000), (0, 0), (u32::MAX, 32 << 20)] {
        let (mut here, there) = pipe();
        let serving = tokio::spawn(serving(there, Throttle::default()));
        let began = Instant::now();
        assert_eq!(ask(&mut here, asked).await, Frame::Ack(Ack { refused: None }));
        let mut noise = Vec::new();
        here.read_to_end(&mut noise).await.unwrap();
        // a machine that is busy may not get so far in the time that there is
        let is_late = began.elapsed() >= PROBE_TIME;
        assert!(noise.len() == given || (is_late && noise.len() < given), "{} of {given}", noise.len());
        assert!(noise.is_empty() || noise[8..].iter().any(|byte| *byte != noise[8]));
        serving.await.unwrap();
    }
}

// SPEC §5.12
#[tokio::test]
async fn an_asker_that_reads_nothing_is_let_go_of_after_two_seconds() {
    // a first one that reads the answer, and one that does not even do that
    for room in [1 << 20, 1] {
        let (here, there) = tokio::io::duplex(room);
        let (mut here, mut there) = (here.compat(), there.compat());
        let began = Instant::now();
        let serving = tokio::spawn(async move {
            serve(&mut there, Probe { bytes: MAX_PROBE }, &Throttle::default()).await;
            began.elapsed()
        });
        if room > 1 {
            assert_eq!(link::read_one(&mut here).await.unwrap(), Frame::Ack(Ack { refused: None }));
        }
        let held = serving.await.unwrap();
        assert!(held >= PROBE_TIME && held < PROBE_TIME + Duration::from_secs(2), "{held:?}");
    }
}

// SPEC §5.12
#[tokio::test]
async fn noise_goes_by_the_limit_of_the_node_and_that_is_what_is_measured() {
    let limit: Rate = "4M".parse().unwrap();
    let throttle = Throttle::new(Limiter::default(), Limiter::new(Some(limit)));
    let (mut here, there) = pipe();
    let serving = tokio::spawn(serving(there, throttle));
    assert_eq!(ask(&mut here, u32::MAX).await, Frame::Ack(Ack { refused: None }));
    let measured = count(&mut here).await.unwrap();
    // a machine that is busy may be slower; faster by what had gathered in the pipe while nobody read, at most
    let bps = measured.bytes_per_second;
    assert!((1_000_000..5_500_000).contains(&bps), "{bps}");
    assert!(measured.bytes < 10_000_000, "{measured:?}");
    serving.await.unwrap();
}

#[tokio::test]
async fn one_that_is_refused_hears_by_which_name() {
    let (mut here, there) = pipe();
    let refusing = tokio::spawn(async move {
        let mut there = there;
        assert_eq!(asked(&mut there).await, Some(Probe { bytes: 1 }));
        refuse(&mut there, Code::Busy).await;
        close(there).await;
    });
    assert_eq!(ask(&mut here, 1).await, Frame::Ack(Ack { refused: Some(Code::Busy) }));
    refusing.await.unwrap();
    assert!(matches!(count(&mut here).await, Err(ProbeError::TooLittle { bytes: 0 })));
}
