//! The relay is what other tests rest on, so it is tested itself.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::course::Travel;
use super::udp::Road;
use super::{Course, Dice, End, Fate, How, TcpRelay, UdpRelay, Weather};

const SOON: Duration = Duration::from_secs(60);

/// Both ends of a connection through a relay.
async fn pair(fate: Fate) -> (TcpRelay, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = TcpRelay::start(listener.local_addr().unwrap()).await;
    relay.fate(move |_| fate);
    let client = TcpStream::connect(relay.address()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (relay, client, server)
}

async fn all(stream: &mut TcpStream) -> (Vec<u8>, Option<std::io::ErrorKind>) {
    let mut bytes = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("it ends");
    (bytes, ended.err().map(|e| e.kind()))
}

/// A stream as Noise writes it: the negotiation, then frames.
fn framed(sizes: &[u16]) -> Vec<u8> {
    let mut bytes = vec![0xff; 28];
    for size in sizes {
        bytes.extend(size.to_be_bytes());
        bytes.extend(std::iter::repeat_n(7, usize::from(*size)));
    }
    bytes
}

fn passed(course: Course, blocks: &[&[u8]]) -> (usize, Option<How>) {
    let mut travel = Travel::new(course);
    let mut total = 0;
    for block in blocks {
        let (len, end) = travel.pass(&mut block.to_vec());
        total += len;
        if end.is_some() {
            return (total, end);
        }
    }
    (total, None)
}

#[test]
fn a_course_ends_after_exactly_its_bytes_however_they_come() {
    let bytes = [1; 100];
    for cut in [0, 1, 49, 50, 99, 100] {
        let course = Course::ends(End::After(cut, How::Close));
        for size in [1, 7, 50, 100] {
            let blocks: Vec<_> = bytes.chunks(size).collect();
            assert_eq!(passed(course, &blocks), (cut as usize, Some(How::Close)), "{cut} in blocks of {size}");
        }
    }
    assert_eq!(passed(Course::ends(End::After(101, How::Close)), &[&bytes]), (100, None));
}

#[test]
fn a_course_ends_at_the_border_of_a_frame_and_one_byte_off_it() {
    let bytes = framed(&[32, 96, 64, 300, 1]);
    for (number, border) in [(1, 62), (2, 160), (3, 226), (4, 528), (5, 531)] {
        for off in [-1, 0, 1] {
            let course = Course::ends(End::Frame(number, off, How::Reset));
            let want = (border + off) as usize;
            let end = (want <= bytes.len()).then_some(How::Reset);
            for size in [1, 2, 3, 100, 1000] {
                let blocks: Vec<_> = bytes.chunks(size).collect();
                assert_eq!(passed(course, &blocks), (want.min(bytes.len()), end), "{number} {off} {size}");
            }
        }
    }
}

#[test]
fn one_bit_turns_over_at_its_place() {
    let mut travel = Travel::new(Course { flip: Some(5), ..Course::default() });
    let mut bytes = [[0; 3], [0; 3], [0; 3]];
    bytes.iter_mut().for_each(|block| assert_eq!(travel.pass(block), (3, None)));
    assert_eq!(bytes, [[0; 3], [0, 0, 0x10], [0; 3]]);
}

#[tokio::test]
async fn bytes_pass_both_ways_and_are_counted() {
    let (relay, mut client, mut server) = pair(Fate::default()).await;
    client.write_all(b"there").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut server).await, (b"there".to_vec(), None));
    // a FIN is passed on, and the other direction still works
    server.write_all(b"and back").await.unwrap();
    drop(server);
    assert_eq!(all(&mut client).await, (b"and back".to_vec(), None));
    assert_eq!((relay.up().bytes(), relay.down().bytes(), relay.connections()), (5, 8, 1));
    relay.stand(0).await;
}

#[tokio::test]
async fn a_connection_is_closed_or_reset_after_its_bytes() {
    for (how, error) in [(How::Close, None), (How::Reset, Some(std::io::ErrorKind::ConnectionReset))] {
        let fate = Fate { down: Course::ends(End::After(10, how)), ..Fate::default() };
        let (relay, mut client, mut server) = pair(fate).await;
        // all of it is under way before the end comes
        server.write_all(&[1; 10]).await.unwrap();
        let mut first = [0; 10];
        if how == How::Close {
            client.read_exact(&mut first).await.unwrap();
        }
        assert_eq!(all(&mut client).await.1, error, "{how:?}");
        assert_eq!(all(&mut server).await.1, error, "{how:?}");
        assert_eq!(relay.down().bytes(), 10);
    }
}

#[tokio::test]
async fn a_silent_direction_swallows_nothing_and_the_other_one_goes_on() {
    let fate = Fate { down: Course::ends(End::After(10, How::Silence)), ..Fate::default() };
    let (relay, mut client, mut server) = pair(fate).await;
    server.write_all(&[1; 100]).await.unwrap();
    let mut got = [0; 10];
    client.read_exact(&mut got).await.unwrap();
    client.write_all(b"alive").await.unwrap();
    let mut alive = [0; 5];
    server.read_exact(&mut alive).await.unwrap();
    // whoever sends comes to a stop: its window is closed
    let filled = async { while server.write_all(&[0; 4096]).await.is_ok() {} };
    assert!(timeout(Duration::from_millis(300), filled).await.is_err());
    relay.cut(How::Reset);
    assert_eq!(all(&mut client).await.1, Some(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_closed_relay_takes_nobody_and_a_silent_cut_tells_nobody() {
    let (relay, mut client, _server) = pair(Fate::default()).await;
    relay.cut(How::Silence);
    client.write_all(b"x").await.unwrap();
    assert!(timeout(Duration::from_millis(200), client.read(&mut [0])).await.is_err());
    relay.open(false);
    let mut late = TcpStream::connect(relay.address()).await.unwrap();
    assert_eq!(all(&mut late).await.0, Vec::<u8>::new());
    assert_eq!((relay.connections(), relay.up().bytes()), (1, 0));
}

#[tokio::test]
async fn a_slow_and_distant_line_takes_its_time() {
    let course = Course { latency: Duration::from_millis(100), rate: Some(100_000), ..Course::default() };
    let (_relay, mut client, mut server) = pair(Fate { down: course, ..Fate::default() }).await;
    let began = Instant::now();
    server.write_all(&[1; 20_000]).await.unwrap();
    drop(server);
    assert_eq!(all(&mut client).await.0.len(), 20_000);
    assert!((300..2000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

/// How many of a thousand come out, in which order, and how many are not what went in.
async fn thousand(weather: Weather) -> (usize, bool, usize) {
    let mut road = Road::new(3);
    let client = "127.0.0.1:1".parse().unwrap();
    for n in 0..1000_u16 {
        road.enter(&n.to_be_bytes().repeat(10), client, weather);
    }
    let mut got = Vec::new();
    while let Ok((_, bytes)) = timeout(Duration::from_millis(100), road.leave()).await {
        got.push(bytes);
    }
    let whole = |b: &&Vec<u8>| b.chunks(2).all(|pair| pair == &b[..2]);
    let damaged = got.len() - got.iter().filter(whole).count();
    (got.len(), got.is_sorted(), damaged)
}

#[tokio::test]
async fn datagrams_are_lost_doubled_delayed_and_damaged_about_as_often_as_asked() {
    assert_eq!(thousand(Weather::default()).await, (1000, true, 0));
    let (came, ..) = thousand(Weather { loss: 200, ..Weather::default() }).await;
    assert!((700..900).contains(&came), "{came}");
    let (came, ..) = thousand(Weather { doubled: 100, ..Weather::default() }).await;
    assert!((1050..1150).contains(&came), "{came}");
    assert!(!thousand(Weather { late: 100, ..Weather::default() }).await.1);
    let (_, _, damaged) = thousand(Weather { damaged: 50, ..Weather::default() }).await;
    assert!((20..100).contains(&damaged), "{damaged}");
    assert_eq!(thousand(Weather { loss: 1000, ..Weather::default() }).await.0, 0);
}

#[tokio::test]
async fn datagrams_pass_both_ways() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relay = UdpRelay::start(server.local_addr().unwrap(), 1).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(b"there", relay.address()).await.unwrap();
    let mut bytes = [0; 100];
    let (len, from) = timeout(SOON, server.recv_from(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(&bytes[..len], b"there");
    server.send_to(b"back", from).await.unwrap();
    let len = timeout(SOON, client.recv(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(&bytes[..len], b"back");
    assert_eq!((relay.up().bytes(), relay.down().bytes()), (5, 4));
}

#[test]
fn dice_fall_the_same_way_for_the_same_seed() {
    let rolls = |seed| (0..10).map(|_| 0).scan(Dice::new(seed), |dice, _| Some(dice.roll(100))).collect::<Vec<_>>();
    assert_eq!(rolls(5), rolls(5));
    assert_ne!(rolls(5), rolls(6));
}
