//! RELIABILITY F67, F68

use std::time::Duration;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// This much later by both clocks.
fn later(span: Duration) -> LastSeen {
    let ms = u64::try_from(span.as_millis()).unwrap();
    LastSeen { wall_ms: NOW.wall_ms + ms, boot_ms: NOW.boot_ms + ms, ..NOW }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn a_session_expires_after_a_day_without_progress_or_seven_in_all() {
    let (_dir, store) = store();
    store.put_import(&import(1)).unwrap();
    store.mark_durable(session(1), &stamps(0..5)).unwrap();
    store.put_import(&ImportRecord { state: SessionStatus::Failed, last: later(150 * HOUR), ..import(2) }).unwrap();
    store.put_export(&export(3, true)).unwrap();
    store.put_export(&ExportRecord { last: later(150 * HOUR), ..export(4, true) }).unwrap();
    assert_eq!(store.sweep(&later(24 * HOUR - Duration::from_secs(1)), &[]).unwrap(), Swept::default());
    let swept = store.sweep(&later(24 * HOUR), &[]).unwrap();
    assert_eq!((swept.expired_imports, swept.expired_exports), (vec![session(1)], vec![TicketId([3; 16])]));
    let ended = store.import(session(1)).unwrap().unwrap();
    assert_eq!((ended.state, ended.failed_code), (SessionStatus::Ended, Some(Code::SessionExpired)));
    assert_eq!(store.durable(session(1)).unwrap(), []);
    assert_eq!(store.sweep(&later(168 * HOUR - Duration::from_secs(1)), &[]).unwrap(), Swept::default());
    let swept = store.sweep(&later(168 * HOUR), &[]).unwrap();
    assert_eq!((swept.expired_imports, swept.expired_exports), (vec![session(2)], vec![TicketId([4; 16])]));
    // long over: gone for good
    assert_eq!(store.sweep(&later(30 * 24 * HOUR), &[]).unwrap().removed, 2);
    assert_eq!(store.sweep(&later(60 * 24 * HOUR), &[]).unwrap().removed, 2);
    assert_eq!((store.imports().unwrap(), store.exports().unwrap()), (vec![], vec![]));
}

#[test]
fn a_session_at_work_and_one_that_applies_are_left_alone_whatever_the_clocks_say() {
    let (_dir, store) = store();
    store.put_import(&import(1)).unwrap();
    store.put_export(&export(2, true)).unwrap();
    store.put_import(&ImportRecord { state: SessionStatus::Finalizing, ..import(3) }).unwrap();
    let live = [session(1), session(2)];
    assert_eq!(store.sweep(&later(1000 * HOUR), &live).unwrap(), Swept::default());
    let swept = store.sweep(&later(1000 * HOUR), &[]).unwrap();
    assert_eq!((swept.expired_imports, swept.expired_exports), (vec![session(1)], vec![TicketId([2; 16])]));
}

#[test]
fn either_clock_alone_makes_a_session_expire_and_one_set_back_saves_none() {
    let day = 24 * 3_600_000;
    let moments = [
        LastSeen { wall_ms: NOW.wall_ms + day, ..NOW },
        LastSeen { wall_ms: 0, boot_ms: NOW.boot_ms + day, ..NOW },
        LastSeen { wall_ms: NOW.wall_ms - day, boot_id: [8; 16], boot_ms: day },
    ];
    for now in moments {
        let (_dir, store) = store();
        store.put_import(&import(1)).unwrap();
        assert_eq!(store.sweep(&now, &[]).unwrap().expired_imports, [session(1)], "{now:?}");
    }
    let (_dir, store) = store();
    store.put_import(&import(1)).unwrap();
    let back = LastSeen { wall_ms: 0, boot_id: [8; 16], boot_ms: day - 1 };
    assert_eq!(store.sweep(&back, &[]).unwrap(), Swept::default());
}

#[test]
fn an_offer_nobody_took_goes_with_its_ticket_and_a_ticket_is_not_made_immortal_by_the_wall_clock() {
    let (_dir, store) = store();
    store.put_export(&export(1, false)).unwrap();
    let minute = Duration::from_secs(60);
    assert_eq!(store.sweep(&later(9 * minute), &[]).unwrap(), Swept::default());
    let record = export(1, false);
    let set_back = LastSeen { wall_ms: NOW.wall_ms - 86_400_000, ..later(10 * minute) };
    assert!(record.is_ticket_expired(&set_back) && record.is_ticket_expired(&later(10 * minute)));
    assert!(record.is_ticket_expired(&LastSeen { wall_ms: NOW.wall_ms + 600_000, ..NOW }));
    assert!(!record.is_ticket_expired(&LastSeen { wall_ms: 0, ..later(9 * minute) }));
    assert_eq!(store.sweep(&set_back, &[]).unwrap().removed, 1);
    assert_eq!(store.exports().unwrap(), []);
}
