//! A browser by the W3C WebDriver protocol: chromedriver as a process, and the few commands that are needed here.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::PATIENCE;

/// What an element is called in answers, by the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const NEEDED: [&str; 2] = ["chromium", "chromedriver"];

/// A browser that runs until it is dropped.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    // what it is told of by the driver, and its profile
    _stdout: BufReader<ChildStdout>,
    _profile: TempDir,
}

impl Browser {
    /// None where there is no browser, which CI has.
    #[expect(clippy::print_stderr, reason = "a test that does not run says so")]
    pub(crate) fn start() -> Option<Self> {
        let missing = |tool: &&str| {
            let asked = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            !asked.is_ok_and(|status| status.success())
        };
        let lacking: Vec<_> = NEEDED.into_iter().filter(missing).collect();
        if !lacking.is_empty() {
            assert!(std::env::var_os("CI").is_none(), "in CI this test must run: it needs {}", lacking.join(", "));
            eprintln!("left out: it needs {}", lacking.join(", "));
            return None;
        }
        let mut command = Command::new("chromedriver");
        let mut driver = command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(driver.stdout.take().unwrap());
        let port = loop {
            let mut line = String::new();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "chromedriver does not start");
            let told = line.split_once("successfully on port ").map(|(_, rest)| rest.trim_end_matches(['.', '\n']));
            if let Some(port) = told {
                break port.parse().unwrap();
            }
        };
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self { driver, port, session: String::new(), _stdout: stdout, _profile: profile };
        browser.open_session();
        Some(browser)
    }

    fn open_session(&mut self) {
        let profile = format!("--user-data-dir={}", self._profile.path().display());
        let args = [
            "--headless",
            // as root there is none
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // the tab of the other device goes on
            "--disable-renderer-backgrounding",
            "--disable-background-timer-throttling",
            "--disable-backgrounding-occluded-windows",
            "--lang=en-US",
            &profile,
        ];
        let chrome = json!({ "browserName": "chrome", "goog:loggingPrefs": { "browser": "ALL" }, "goog:chromeOptions": { "args": args } });
        let made = self.ask("POST", "/session", &json!({ "capabilities": { "alwaysMatch": chrome } })).unwrap();
        made["sessionId"].as_str().unwrap().clone_into(&mut self.session);
    }

    /// What the command gives, or the error that it ended with.
    fn ask(&self, method: &str, route: &str, body: &Value) -> Result<Value, Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // a body that is not asked for is refused
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!("host: 127.0.0.1:{}\r\nconnection: close\r\ncontent-type: application/json", self.port);
        write!(stream, "{method} {route} HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut lines = BufReader::new(stream);
        let (mut length, mut line) = (0, String::from("head"));
        while !line.trim().is_empty() {
            line.clear();
            lines.read_line(&mut line).unwrap();
            let field = line.to_ascii_lowercase();
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut text = vec![0; length];
        lines.read_exact(&mut text).unwrap();
        let answer: Value = serde_json::from_slice(&text).unwrap();
        let value = answer["value"].clone();
        if value["error"].is_string() { Err(value) } else { Ok(value) }
    }

    fn of_session(&self, method: &str, route: &str, body: &Value) -> Result<Value, Value> {
        let route = format!("/session/{}/{route}", self.session);
        self.ask(method, route.trim_end_matches('/'), body)
    }

    #[track_caller]
    fn command(&self, method: &str, route: &str, body: &Value) -> Value {
        self.of_session(method, route, body).unwrap_or_else(|err| panic!("{route} {body}: {err}"))
    }

    /// The tab that is there from the beginning, or another one.
    pub(crate) fn tab(&self, another: bool) -> String {
        if another {
            return self.command("POST", "window/new", &json!({ "type": "tab" }))["handle"]
                .as_str()
                .unwrap()
                .to_owned();
        }
        self.command("GET", "window", &Value::Null).as_str().unwrap().to_owned()
    }

    pub(crate) fn switch(&self, tab: &str) {
        self.command("POST", "window", &json!({ "handle": tab }));
    }

    pub(crate) fn go(&self, url: &str) {
        self.command("POST", "url", &json!({ "url": url }));
    }

    /// The first element that an XPath names, if there is one.
    pub(crate) fn find(&self, xpath: &str) -> Option<String> {
        let found = self.of_session("POST", "element", &json!({ "using": "xpath", "value": xpath }));
        found.ok().map(|element| element[ELEMENT].as_str().unwrap().to_owned())
    }

    /// As a person does it: an error if it is hidden or something lies over it.
    pub(crate) fn click(&self, element: &str) -> Result<(), Value> {
        self.of_session("POST", &format!("element/{element}/click"), &json!({})).map(drop)
    }

    pub(crate) fn keys(&self, element: &str, text: &str) {
        self.command("POST", &format!("element/{element}/value"), &json!({ "text": text }));
    }

    /// Keys for whatever has the focus.
    pub(crate) fn press(&self, keys: &str) {
        let actions: Vec<_> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() })))
            .collect();
        self.command(
            "POST",
            "actions",
            &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] }),
        );
    }

    /// The value of a function's body.
    pub(crate) fn script(&self, body: &str) -> Value {
        self.command("POST", "execute/sync", &json!({ "script": body, "args": [] }))
    }

    /// A command of the developer tools, for what the protocol has no command for.
    pub(crate) fn tools(&self, command: &str, params: &Value) -> Value {
        self.command("POST", "goog/cdp/execute", &json!({ "cmd": command, "params": params }))
    }

    /// What the console has got since it was asked last: errors, warnings, and violations of the policy are among it.
    pub(crate) fn console(&self) -> Vec<Value> {
        self.command("POST", "se/log", &json!({ "type": "browser" })).as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // the browser goes with its session, the driver would not take it along
        if !self.session.is_empty() {
            self.of_session("DELETE", "", &Value::Null).ok();
        }
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}
