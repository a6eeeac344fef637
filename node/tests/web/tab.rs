//! One tab, and what a person does in it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::client::PATIENCE;
use crate::support::{Place, assert_code, stdout};

/// Between two looks.
const BLINK: Duration = Duration::from_millis(50);

/// A tab with the page of one device.
pub(crate) struct Tab<'a> {
    browser: &'a Browser,
    handle: String,
}

impl<'a> Tab<'a> {
    /// Opens what `me-sync dashboard` prints.
    pub(crate) fn open(browser: &'a Browser, place: &Place, device: &str, another: bool) -> Self {
        let tab = Self { browser, handle: browser.tab(another) };
        tab.log_in(place, device);
        tab
    }

    pub(crate) fn log_in(&self, place: &Place, device: &str) {
        let link = place.run(device, &["dashboard"]);
        assert_code(&link, 0);
        self.look().go(stdout(&link).trim());
        self.wait("//button[.='Sign out']");
        self.wait("//*[@id='link'][.='Live']");
    }

    /// Brings it to the front.
    pub(crate) fn look(&self) -> &'a Browser {
        self.browser.switch(&self.handle);
        self.browser
    }

    /// Waits until `found` yields something.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, mut found: impl FnMut(&Browser) -> Option<T>) -> T {
        let (browser, end) = (self.look(), Instant::now() + PATIENCE);
        loop {
            if let Some(value) = found(browser) {
                return value;
            }
            if Instant::now() > end {
                panic!("{what} does not come; the page says: {}", self.text("//body"));
            }
            std::thread::sleep(BLINK);
        }
    }

    /// An element that can be seen.
    #[track_caller]
    pub(crate) fn wait(&self, xpath: &str) -> String {
        self.until(xpath, |browser| {
            let seen = format!(
                "const e = document.evaluate({}, document, null, 9, null).singleNodeValue;
                 return e !== null && e.checkVisibility();",
                json!(xpath)
            );
            browser.script(&seen).as_bool().filter(|seen| *seen).and_then(|_| browser.find(xpath))
        })
    }

    /// Presses it as soon as that is possible.
    #[track_caller]
    pub(crate) fn press(&self, xpath: &str) {
        self.until(xpath, |browser| browser.find(xpath).and_then(|element| browser.click(&element).ok()));
    }

    /// Types into the field of this name, in place of what is there.
    #[track_caller]
    pub(crate) fn fill(&self, field: &str, text: &str) {
        self.fill_at(&test(field), text);
    }

    /// The same for a field that is one of several of its name.
    #[track_caller]
    pub(crate) fn fill_at(&self, xpath: &str, text: &str) {
        let element = self.wait(xpath);
        let clear = "document.evaluate({}, document, null, 9, null).singleNodeValue.value = ''";
        self.browser.script(&clear.replace("{}", &json!(xpath).to_string()));
        self.browser.keys(&element, text);
    }

    /// What can be read there now.
    pub(crate) fn text(&self, xpath: &str) -> String {
        let read = format!(
            "return document.evaluate({}, document, null, 9, null).singleNodeValue?.innerText ?? '';",
            json!(xpath)
        );
        self.look().script(&read).as_str().unwrap().to_owned()
    }

    /// The value of a field.
    pub(crate) fn value(&self, field: &str) -> String {
        let read = format!("return document.querySelector('[data-test={field}]').value");
        self.look().script(&read).as_str().unwrap().to_owned()
    }

    /// Nothing went wrong in it since this was asked last.
    #[track_caller]
    pub(crate) fn assert_quiet(&self) {
        let wrong: Vec<Value> = self.look().console().into_iter().filter(|line| line["level"] != "INFO").collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// As wide as that, on paper of that colour.
    pub(crate) fn shape(&self, width: u32, height: u32, scheme: &str) {
        let browser = self.look();
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        browser.tools("Emulation.setDeviceMetricsOverride", &size);
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.tools("Emulation.setEmulatedMedia", &media);
    }
}

/// The XPath of a field or a part that tests name.
pub(crate) fn test(name: &str) -> String {
    format!("//*[@data-test='{name}']")
}

/// The XPath of something within the newest transfer that is in this phase.
pub(crate) fn transfer(phase: &str, inside: &str) -> String {
    format!("//article[@data-phase='{phase}']{inside}")
}
