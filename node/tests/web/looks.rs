//! How the page looks: that nothing sticks out of a narrow screen, that everything has a name for who cannot see it, and, with
//! `ME_SYNC_SCREENSHOTS=DIR`, pictures for people who judge the rest.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::tab::Tab;

const SHAPES: [(u32, u32); 3] = [(1280, 900), (390, 844), (360, 740)];

/// What somebody without eyes for it would miss.
const UNNAMED: &str = "
    const seen = [...document.querySelectorAll('button, input, textarea, img, progress, dialog, [role=img]')]
        .filter((e) => e.checkVisibility() && !e.closest('[aria-hidden=true]'));
    const named = (e) => e.labels?.length > 0 || e.getAttribute('aria-label') || e.hasAttribute('alt')
        || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent.trim()
        || (e.tagName === 'BUTTON' && e.textContent.trim());
    const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
    return [...seen.filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 200)),
        ...ids.filter((id, at) => ids.indexOf(id) !== at)];";

/// Text that is hard to read on its ground: less than 4.5 to 1.
const FAINT: &str = "
    const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = (e) => {
        for (; e; e = e.parentElement) {
            const color = parse(getComputedStyle(e).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        const busy = e.closest('[aria-disabled=true], noscript, option, .skip');
        if (!own || !e.checkVisibility() || busy) continue;
        const [one, other] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (other + 0.05);
        if (ratio < 4.5) faint.push(`${ratio.toFixed(2)}: ${e.outerHTML.slice(0, 160)}`);
    }
    return faint;";

/// Looks at the page as it is now, in every shape and on both papers.
#[track_caller]
pub(crate) fn take(tab: &Tab<'_>, name: &str) {
    let browser = tab.look();
    for (width, height) in SHAPES {
        for scheme in ["light", "dark"] {
            tab.shape(width, height, scheme);
            let wide = browser.script("return document.documentElement.scrollWidth");
            assert!(wide.as_u64() <= Some(u64::from(width)), "{name}: {wide} of {width} pixels");
            for check in [UNNAMED, FAINT] {
                assert_eq!(browser.script(check), json!([]), "{name}, {width}, {scheme}");
            }
            if let (Some(dir), true) = (std::env::var_os("ME_SYNC_SCREENSHOTS"), width != 360) {
                let whole = browser.script("return document.querySelector('dialog[open]') === null");
                let shot = browser.tools("Page.captureScreenshot", &json!({ "captureBeyondViewport": whole }));
                let png = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
                std::fs::write(PathBuf::from(dir).join(format!("{name}-{width}-{scheme}.png")), png).unwrap();
            }
        }
    }
    browser.tools("Emulation.clearDeviceMetricsOverride", &Value::Object(Default::default()));
    browser.tools("Emulation.setEmulatedMedia", &json!({ "features": [] }));
}
