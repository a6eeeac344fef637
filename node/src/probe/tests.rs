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
        let serving = tokio::spawn(async move { serve(there, &Throttle::default()).await });
        assert_eq!(ask(&mut here, asked).await, Frame::Ack(Ack { refused: None }));
        let mut noise = Vec::new();
        here.read_to_end(&mut noise).await.unwrap();
        assert_eq!(noise.len(), given);
        assert!(noise.is_empty() || noise[8..].iter().any(|byte| *byte != noise[8]));
        serving.await.unwrap();
    }
}

// SPEC §5.12
#[tokio::test]
async fn an_asker_that_reads_nothing_is_served_no_longer_than_others() {
    let (mut here, there) = pipe();
    let began = Instant::now();
    let serving = tokio::spawn(async move { serve(there, &Throttle::default()).await });
    assert_eq!(ask(&mut here, u32::MAX).await, Frame::Ack(Ack { refused: None }));
    serving.await.unwrap();
    assert!(began.elapsed() <= PROBE_TIME + ACK_TIMEOUT, "{:?}", began.elapsed());
}

// SPEC §5.12
#[tokio::test]
async fn noise_goes_by_the_limit_of_the_node_and_that_is_what_is_measured() {
    let limit: Rate = "4M".parse().unwrap();
    let throttle = Throttle::new(Limiter::default(), Limiter::new(Some(limit)));
    let (mut here, there) = pipe();
    let serving = tokio::spawn(async move { serve(there, &throttle).await });
    assert_eq!(ask(&mut here, u32::MAX).await, Frame::Ack(Ack { refused: None }));
    let measured = count(&mut here).await.unwrap();
    // a machine that is busy may be slower, never faster
    let bps = measured.bytes_per_second;
    assert!((1_000_000..4_400_000).contains(&bps), "{bps}");
    assert!(measured.bytes < 10_000_000, "{measured:?}");
    serving.await.unwrap();
}

#[tokio::test]
async fn one_that_is_refused_hears_by_which_name() {
    let (mut here, there) = pipe();
    let refusing = tokio::spawn(refuse(there, Code::Busy));
    assert_eq!(ask(&mut here, 1).await, Frame::Ack(Ack { refused: Some(Code::Busy) }));
    refusing.await.unwrap();
    assert!(matches!(count(&mut here).await, Err(ProbeError::TooLittle { bytes: 0 })));
}
