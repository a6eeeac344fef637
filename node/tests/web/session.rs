//! Coming in, going out, and what is left to type when neither works.

use crate::browser::Browser;
use crate::client::Node;
use crate::looks;
use crate::support::{Place, make_tree, stdout};
use crate::tab::{Tab, test};

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

#[test]
fn a_link_that_was_used_and_a_page_that_signed_out_say_what_to_type() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let node = Node::start(&place, "d");
    let tab = Tab::open(&browser, &place, "d", false);
    assert_eq!(tab.look().script("return location.hash + document.cookie"), "");
    assert!(tab.text("//header").contains("on d"));
    looks::take(&tab, "empty");

    tab.press("//button[.='Sign out']");
    tab.wait("//h1[.='Signed out']");
    assert!(tab.text("//main").contains("me-sync dashboard"));
    assert!(tab.look().script("return sessionStorage.length").as_u64() < Some(1));
    looks::take(&tab, "door");
    tab.assert_quiet();

    let link = stdout(&place.run("d", &["dashboard"])).trim().to_owned();
    tab.look().go(&link);
    tab.wait("//button[.='Sign out']");
    tab.assert_quiet();
    let other = browser.tab(true);
    browser.switch(&other);
    browser.go(&link);
    tab_says(&browser, "That link was used already");
    browser.go(&format!("http://127.0.0.1:{}/", node.port));
    tab_says(&browser, "It needs a link");

    // the node goes away and comes back: what it knew of the page is gone
    let port = node.port.to_string();
    assert_eq!(node.stop(), Some(0));
    tab.wait("//*[@id='link'][.='No answer; trying again']");
    let _again = Node::with(&place, "d", place.command("d", &["--json", "node", "--api-port", &port]));
    tab.wait("//h1[.='Signed out']");
    tab.log_in(&place, "d");
    assert!(tab.text(&test("no-export-roots")).contains("me-sync node --export-root"));
    looks::take(&tab, "no-roots");
}

/// In the tab that is in front.
#[track_caller]
fn tab_says(browser: &Browser, text: &str) {
    let end = std::time::Instant::now() + crate::client::PATIENCE;
    while !browser.script("return document.body.innerText").as_str().unwrap().contains(text) {
        assert!(std::time::Instant::now() < end, "{text} is not said");
    }
}

#[test]
fn all_of_it_can_be_done_without_a_mouse() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let _node = Node::start(&place, "d");
    make_tree(&place.path("out/tree"), "s");
    let tab = Tab::open(&browser, &place, "d", false);
    let focused = |browser: &Browser| {
        let told = "const e = document.activeElement; return e.dataset.test ?? e.innerText ?? e.tagName";
        browser.script(told).as_str().unwrap().trim().to_owned()
    };
    let mut met = Vec::new();
    while met.last().is_none_or(|last| last != "send-path") {
        tab.look().press(TAB);
        met.push(focused(&browser));
        assert!(met.len() < 10, "{met:?}");
    }
    assert_eq!(met[..2], ["Skip to the content", "Sign out"], "{met:?}");
    let path = place.path("out/tree");
    let field = browser.find(&test("send-path")).unwrap();
    browser.script("document.activeElement.value = ''");
    browser.keys(&field, path.to_str().unwrap());
    browser.press(ENTER);
    tab.wait(&test("ticket"));
    // the focus is where something happened
    tab.until("the focus on the offer", |browser| focused(browser).contains("Send tree").then_some(()));
    let mut met = Vec::new();
    while met.last().is_none_or(|last| last != "Withdraw") {
        browser.press(TAB);
        met.push(focused(&browser));
        assert!(met.len() < 10, "{met:?}");
    }
    assert!(met.contains(&"ticket".to_owned()) && met.contains(&"Copy the ticket".to_owned()), "{met:?}");
    browser.press(ENTER);
    tab.wait("//article//button[.='Dismiss']");
    tab.until("the focus beside the button that is gone", |browser| {
        focused(browser).contains("Send tree").then_some(())
    });
    tab.assert_quiet();
}
