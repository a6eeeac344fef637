//! A whole migration between two devices, each at its page.

use std::fs;

use crate::browser::Browser;
use crate::client::Node;
use crate::looks;
use crate::support::{Place, assert_same, make_tree, noise, picture};
use crate::tab::{Tab, test, transfer};

#[test]
fn a_tree_is_sent_received_watched_and_rolled_back_at_the_page() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let (_from, _to) = (Node::start(&place, "from"), Node::start(&place, "to"));
    make_tree(&place.path("out/photos"), "s");
    fs::write(place.path("out/photos/bulk"), noise(8 << 20)).unwrap();
    make_tree(&place.path("in/copy"), "old");
    let before = picture(&place.path("in/copy"));

    let sender = Tab::open(&browser, &place, "from", false);
    sender.fill("send-path", place.path("out/photos").to_str().unwrap());
    sender.press("//button[.='Make a ticket']");
    sender.wait("//img[@alt='The ticket as a QR code']");
    let ticket = sender.value("ticket");
    assert!(ticket.starts_with("me.things:me.sync.v4:"), "{ticket}");
    // a reload of the tab loses neither the login nor the ticket
    sender.look().script("location.reload()");
    sender.wait(&test("ticket"));
    assert_eq!(sender.value("ticket"), ticket);
    looks::take(&sender, "offer");

    let receiver = Tab::open(&browser, &place, "to", true);
    receiver.fill("receive-ticket", &ticket);
    receiver.fill("receive-path", place.path("in/copy").to_str().unwrap());
    receiver.press("//section[@aria-labelledby='receive-title']//summary[.='Options']");
    receiver.fill_at("//section[@aria-labelledby='receive-title']//*[@data-test='limit']", "0.6");
    receiver.press("//button[.='Receive']");
    receiver.wait("//dialog//h2[.='Replace this folder?']");
    let summary = receiver.text("//dialog");
    for told in
        ["from", "photos", "6 files", "9.9 MiB", "1.9 MiB", "kept for 7 days", place.path("in/copy").to_str().unwrap()]
    {
        assert!(summary.contains(told), "{told}: {summary}");
    }
    looks::take(&receiver, "review");
    receiver.press("//dialog//button[.='Replace it']");

    // it is seen to move, at both ends
    for tab in [&receiver, &sender] {
        let shown = |tab: &Tab<'_>| {
            let bar = "return document.querySelector('article[data-phase=bulk_transferring] progress')?.value ?? 0";
            tab.until("progress", |browser| browser.script(bar).as_f64().filter(|part| *part > 0.0))
        };
        let first = shown(tab);
        tab.until("more progress", |_| (shown(tab) > first).then_some(()));
        tab.wait(&transfer("bulk_transferring", "//figure//*[@role='img'][contains(@aria-label, '/s')]"));
        let figures = "//p[@class='figures'][contains(., '/s')][contains(., ' left')][contains(., 'of 6 files')]";
        tab.wait(&transfer("bulk_transferring", figures));
        looks::take(tab, "moving");
    }
    receiver.wait(&transfer("completed", "//button[.='Roll back…']"));
    assert_same(&picture(&place.path("out/photos")), &picture(&place.path("in/copy")));
    sender.wait(&transfer("completed", "//*[contains(., 'The other device has put it in place')]"));
    looks::take(&receiver, "completed");

    receiver.press(&transfer("completed", "//button[.='Roll back…']"));
    receiver.press("//dialog//button[.='Roll back']");
    receiver.wait(&transfer("completed", "//*[contains(., 'Rolled back')]"));
    assert_same(&before, &picture(&place.path("in/copy")));
    receiver.press("//button[.='Dismiss']");
    receiver.wait("//ul[contains(@class, 'history')]//*[contains(@class, 'pill')][.='Rolled back']");
    looks::take(&receiver, "history");
    sender.assert_quiet();
    receiver.assert_quiet();
}

#[test]
fn hostile_names_are_text_and_what_failed_is_listed_and_tried_again() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let name = "<img src=x onerror=alert(1)>\u{202e}gnp";
    fs::create_dir_all(place.path("out/tree")).unwrap();
    fs::write(place.path("out/tree").join(name), "x").unwrap();
    fs::write(place.path("out/tree/good"), "y").unwrap();
    // its state directory has that name too
    let (out, device) = (place.path("out"), "<b>from");
    let mut command =
        place.command(device, &["--json", "node", "--api-port", "0", "--export-root", out.to_str().unwrap()]);
    // in every round of the first session, and not after that
    command.env("ME_SYNC_TEST_CORRUPT", format!("{name}:4"));
    let _from = Node::with(&place, device, command);
    let _to = Node::start(&place, "to");

    let sender = Tab::open(&browser, &place, device, false);
    // where nothing may be received, the page says how that is changed
    assert!(sender.text(&test("no-import-roots")).contains("--import-root"));
    sender.fill("send-path", place.path("out/tree").to_str().unwrap());
    sender.press("//button[.='Make a ticket']");
    sender.wait(&test("ticket"));
    let ticket = sender.value("ticket");
    let receiver = Tab::open(&browser, &place, "to", true);
    receiver.fill("receive-ticket", &ticket);
    receiver.fill("receive-path", place.path("in/new").to_str().unwrap());
    receiver.press("//button[.='Receive']");
    receiver.wait("//dialog//h2[.='Receive this folder?']");
    let summary = receiver.text("//dialog");
    assert!(summary.contains("<b>from") && summary.contains("Nothing: the folder is new"), "{summary}");
    receiver.press("//dialog//button[.='Receive it']");

    receiver.press(&transfer("failed", "//summary[contains(., '1 file failed')]"));
    let failures = receiver.text(&transfer("failed", "//details[contains(@class, 'failures')]"));
    let shown = name.replace('\u{202e}', "\\u{202e}");
    assert!(failures.contains(&shown) && failures.contains("other contents than promised"), "{failures}");
    assert!(!place.path("in/new").exists());
    looks::take(&receiver, "failed");
    for tab in [&sender, &receiver] {
        tab.press("//article//button[.='Retry']");
    }
    receiver.wait(&transfer("completed", ""));
    assert_same(&picture(&place.path("out/tree")), &picture(&place.path("in/new")));
    assert_eq!(receiver.look().script("return document.querySelectorAll('bdi img, bdi b').length"), 0);
    sender.assert_quiet();
    receiver.assert_quiet();
}

#[test]
fn a_transfer_is_paused_resumed_and_aborted_at_the_page() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let _from = Node::start(&place, "from");
    fs::create_dir_all(place.path("in")).unwrap();
    let mut command = place.command("to", &["--json", "node", "--api-port", "0", "--limit", "500K", "--import-root"]);
    command.arg(place.path("in"));
    let _to = Node::with(&place, "to", command);
    make_tree(&place.path("out/tree"), "s");
    fs::write(place.path("out/tree/bulk"), noise(8 << 20)).unwrap();
    let sender = Tab::open(&browser, &place, "from", false);
    sender.fill("send-path", place.path("out/tree").to_str().unwrap());
    sender.press("//button[.='Make a ticket']");
    sender.wait(&test("ticket"));
    let ticket = sender.value("ticket");
    let receiver = Tab::open(&browser, &place, "to", true);
    receiver.fill("receive-ticket", &ticket);
    receiver.fill("receive-path", place.path("in/copy").to_str().unwrap());
    receiver.press("//button[.='Receive']");
    receiver.press("//dialog//button[.='Receive it']");
    receiver.press(&transfer("bulk_transferring", "//button[.='Pause']"));
    receiver.wait("//article//*[contains(@class, 'pill')][.='Interrupted']");
    receiver.press("//article//button[.='Resume']");
    receiver.press(&transfer("bulk_transferring", "//button[.='Abort…']"));
    receiver.press("//dialog//button[.='End it']");
    receiver.press(&transfer("failed", "//button[.='Dismiss']"));
    receiver.wait("//ul[contains(@class, 'history')]//*[contains(@class, 'pill')][starts-with(., 'Ended')]");
    assert!(!place.path("in/copy").exists());
    sender.wait(&transfer("failed", ""));
    sender.assert_quiet();
    receiver.assert_quiet();
}
