use std::sync::mpsc;

use super::*;

fn handle(dir: &Path) -> StoreHandle {
    StoreHandle::spawn(Store::open(dir).unwrap()).unwrap()
}

#[tokio::test]
async fn calls_take_effect_in_the_order_in_which_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let store = handle(dir.path());
    for round in 0..100u64 {
        let put = |files_ok| Write::PutImport(Box::new(ImportRecord { files_ok, ..import(1) }));
        store.post(put(round)).unwrap();
        let answer = store.submit(put(round + 1000)).unwrap();
        store.post(Write::RemoveExport(TicketId([1; 16]))).unwrap();
        store.post(Write::PutExport(Box::new(export(1, true)))).unwrap();
        assert_eq!(store.import(session(1)).await.unwrap().unwrap().files_ok, round + 1000);
        assert!(store.export_of(session(1)).await.unwrap().is_some());
        answer.await.unwrap();
    }
}

#[tokio::test]
async fn closing_does_everything_that_was_sent_before_and_lets_go_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = handle(dir.path());
    let other = store.clone();
    for n in 0..100 {
        store.post(Write::MarkDurable(session(1), stamps(n * 10..n * 10 + 10))).unwrap();
    }
    store.close().await.unwrap();
    assert_eq!(other.put_import(import(1)).await.unwrap_err().code(), Code::NodeStopping);
    assert!(matches!(other.post(Write::PutPorts(vec![])), Err(StoreError::Closed)));
    assert!(matches!(other.close().await, Err(StoreError::Closed)));
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.durable(session(1)).unwrap(), stamps(0..1000));
}

#[tokio::test]
async fn who_does_not_wait_is_told_when_the_queue_is_full_and_who_waits_gets_through() {
    let dir = tempfile::tempdir().unwrap();
    let store = handle(dir.path());
    let ((busy, started), (release, gate)) = (mpsc::channel(), mpsc::channel());
    let blocking = tokio::spawn({
        let store = store.clone();
        async move { store.call(move |_| Ok(busy.send(()).is_ok() && gate.recv().is_ok())).await }
    });
    tokio::task::spawn_blocking(move || started.recv().unwrap()).await.unwrap();
    let port = |port: usize| Write::PutPorts(vec![ListenPort { ipv6: false, quic: false, port: port as u16 }]);
    for n in 0..super::super::actor::QUEUE {
        store.post(port(n)).unwrap();
    }
    assert!(matches!(store.post(port(0)), Err(StoreError::Busy)));
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.put_failures(session(1), vec![failure(1)]).await }
    });
    release.send(()).unwrap();
    assert!(blocking.await.unwrap().unwrap());
    waiting.await.unwrap().unwrap();
    assert_eq!(store.failures(session(1)).await.unwrap(), [failure(1)]);
    assert_eq!(store.ports().await.unwrap()[0].port, (super::super::actor::QUEUE - 1) as u16);
}
