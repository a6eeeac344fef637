//! A node as a process, and an HTTP client that can be as wrong as it likes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Place, signal};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A node that runs until it is dropped.
pub(crate) struct Node {
    pub(crate) child: Child,
    pub(crate) port: u16,
    pub(crate) token: String,
    pub(crate) state: PathBuf,
    _stdout: BufReader<ChildStdout>,
}

impl Node {
    /// A node of that device, which may read `out` and write `in` of the place.
    pub(crate) fn start(place: &Place, device: &str) -> Self {
        for dir in ["out", "in"] {
            fs::create_dir_all(place.path(dir)).unwrap();
        }
        let (out, into) = (place.path("out"), place.path("in"));
        let roots = ["--export-root", out.to_str().unwrap(), "--import-root", into.to_str().unwrap()];
        Self::with(place, device, place.command(device, &[&["--json", "node", "--api-port", "0"], &roots[..]].concat()))
    }

    pub(crate) fn with(place: &Place, device: &str, mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("\"event\":\"node\"") {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the node does not start");
        }
        let event: Value = serde_json::from_str(&line).unwrap();
        let port = event["api"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        let state = place.path(device);
        let token = fs::read_to_string(state.join("api.token")).unwrap().trim().to_owned();
        Self { child, port, token, state, _stdout: stdout }
    }

    /// Asks with the token, and everything as it should be.
    #[track_caller]
    pub(crate) fn get(&self, route: &str) -> Answer {
        self.ask("GET", route, None)
    }

    #[track_caller]
    pub(crate) fn post(&self, route: &str, body: &Value) -> Answer {
        self.ask("POST", &format!("/me/sync/v4/{route}"), Some(body))
    }

    /// By a route of v3.
    #[track_caller]
    pub(crate) fn post_v3(&self, route: &str, body: &Value) -> Answer {
        self.ask("POST", &format!("/me/sync/v3/{route}"), Some(body))
    }

    fn ask(&self, method: &str, route: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.raw(&format!(
            "{method} {route} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.port,
            self.token,
            body.len()
        ))
    }

    /// A request with these lines beside the right ones.
    pub(crate) fn with_headers(&self, method: &str, route: &str, headers: &str) -> Answer {
        self.raw(&format!(
            "{method} {route} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
             {headers}\r\n",
            self.port, self.token
        ))
    }

    /// Sends exactly that and reads to the end.
    pub(crate) fn raw(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(stream)
    }

    /// Asks over the Unix socket, as its owner.
    pub(crate) fn at_socket(&self, method: &str, route: &str, body: &Value) -> Answer {
        let mut stream = UnixStream::connect(self.state.join("api.sock")).unwrap();
        let body = body.to_string();
        let head = "host: x\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{method} {route} HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        Answer::read(stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The status of a session once this holds of it.
    #[track_caller]
    pub(crate) fn until(&self, job: &Value, found: impl Fn(&Value) -> bool) -> Value {
        let mut version = 0;
        loop {
            let route = format!("/me/sync/v4/job/status?job_id={job}&after_version={version}&wait_secs=30");
            let status = self.get(&route).ok(200);
            assert!(status["version"].as_u64() > Some(version), "nothing happens: {status}");
            version = status["version"].as_u64().unwrap();
            if found(&status) {
                return status;
            }
            assert!(status["outcome"].is_null(), "it ended before that: {status}");
        }
    }

    /// Ends with the job.
    #[track_caller]
    pub(crate) fn outcome(&self, job: &Value) -> Value {
        self.until(job, |status| !status["outcome"].is_null())["outcome"].clone()
    }

    /// Offers `out/NAME` of the place.
    #[track_caller]
    pub(crate) fn create(&self, place: &Place, name: &str) -> Value {
        let path = place.path("out").join(name);
        self.post("session/create", &json!({ "source_path": path })).ok(201)
    }

    /// Asks it to stop, and gives its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        signal("TERM", &self.child);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // one that has stopped already is no matter
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What came back; a connection that was closed without a word has status 0.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(mut stream: impl std::io::Read) -> Self {
        let mut raw = Vec::new();
        // a reset after the answer takes nothing from it
        stream.read_to_end(&mut raw).ok();
        let text = String::from_utf8_lossy(&raw).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// Its body, if it has this status.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.body);
        self.json()
    }

    /// It is an error of this status and code, in the one shape of errors.
    #[track_caller]
    pub(crate) fn is(&self, status: u16, code: &str) {
        let body = self.ok(status);
        assert_eq!(body["code"], code, "{body}");
        let fields = body.as_object().unwrap();
        assert!(fields.len() == 3 && fields["message"].is_string() && fields["hint"].is_string(), "{body}");
        assert!(self.head.contains("\r\nx-content-type-options: nosniff"), "{}", self.head);
    }
}
