//! What starts a node with its user: a unit of systemd, or on macOS an agent of launchd. Text only, so that both are
//! tested wherever the tests run.

use std::path::{Path, PathBuf};

/// The first line of a file that this program may replace and remove.
pub(crate) const MARK: &str = "Written by `me-sync node install`; `me-sync node uninstall` removes it.";
/// The name of the service in both.
pub(crate) const NAME: &str = "me-sync";

/// What is started.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) program: PathBuf,
    /// The words behind it.
    pub(crate) arguments: Vec<String>,
    pub(crate) state_dir: PathBuf,
}

/// Where the unit of this user goes, below the directory of settings.
pub(crate) fn unit_path(config_home: &Path) -> PathBuf {
    config_home.join("systemd/user").join(format!("{NAME}.service"))
}

/// Where the agent of this user goes.
pub(crate) fn agent_path(home: &Path) -> PathBuf {
    home.join("Library/LaunchAgents").join(format!("{NAME}.plist"))
}

impl Service {
    /// The unit. None if a path is not UTF-8, which systemd does not take.
    ///
    /// It is held by filters on system calls alone. What makes a file system of its own would hide from the node which
    /// mounts there are, and stand between two directories that have to change places.
    pub(crate) fn unit(&self) -> Option<String> {
        let program = quoted(self.program.to_str()?, false);
        let arguments: String = self.arguments.iter().map(|word| format!(" {}", quoted(word, true))).collect();
        Some(format!(
            "\
# {MARK}
[Unit]
Description=me-sync: moves directory trees between devices

[Service]
Type=notify
ExecStart={program}{arguments}
Restart=on-failure
RestartSec=5
# a stop takes 5 s, unless two trees are changing places
TimeoutStopSec=30
KillMode=mixed
UMask=0077

# A command after a swap (post_apply) runs under these too; `systemctl --user edit {NAME}` changes them.
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"
        ))
    }

    /// The agent. None if a path is not UTF-8.
    #[cfg_attr(not(any(test, target_os = "macos")), expect(dead_code, reason = "of another platform"))]
    pub(crate) fn agent(&self) -> Option<String> {
        let words = std::iter::once(self.program.to_str()?).chain(self.arguments.iter().map(String::as_str));
        let words: String = words.map(|word| format!("        <string>{}</string>\n", xml(word))).collect();
        let log = self.state_dir.join("node.log");
        let log = xml(log.to_str()?);
        Some(format!(
            "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!-- {MARK} -->
<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">
<plist version=\"1.0\">
<dict>
    <key>Label</key>
    <string>{NAME}</string>
    <key>ProgramArguments</key>
    <array>
{words}    </array>
    <key>RunAtLoad</key>
    <true/>
    <key>KeepAlive</key>
    <dict>
        <key>SuccessfulExit</key>
        <false/>
    </dict>
    <key>ProcessType</key>
    <string>Background</string>
    <key>Umask</key>
    <integer>63</integer>
    <key>StandardErrorPath</key>
    <string>{log}</string>
</dict>
</plist>
"
        ))
    }
}

/// A word of `ExecStart`: `%` begins a specifier everywhere, and `$` a variable behind the program.
fn quoted(word: &str, is_argument: bool) -> String {
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' => out += "%%",
            '$' if is_argument => out += "$$",
            c if c.is_control() => c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| out += &format!("\\x{b:02x}")),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn xml(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            c if c.is_control() => out += &format!("&#{};", u32::from(c)),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(program: &str, arguments: &[&str]) -> Service {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        Service { program: program.into(), arguments, state_dir: "/state & more".into() }
    }

    #[test]
    fn odd_paths_are_the_words_that_systemd_reads_back() {
        let unit = service("/o'd \"b\\n/50%/$HOME", &["--state-dir", "/a b/$X %n\n", "node"]).unit().unwrap();
        let line = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        assert_eq!(line, r#"ExecStart="/o'd \"b\\n/50%%/$HOME" "--state-dir" "/a b/$$X %%n\x0a" "node""#);
        assert!(unit.starts_with(&format!("# {MARK}\n")));
    }

    #[test]
    fn an_agent_is_well_formed_whatever_the_paths_are() {
        let agent = service("/a<b>&c", &["node"]).agent().unwrap();
        assert!(agent.contains("<string>/a&lt;b&gt;&amp;c</string>\n        <string>node</string>"), "{agent}");
        assert!(agent.contains("<string>/state &amp; more/node.log</string>"), "{agent}");
        for tag in ["plist", "dict", "array", "key", "string", "integer"] {
            let count = |text: &str| agent.matches(text).count();
            assert_eq!(count(&format!("<{tag}>")) + count(&format!("<{tag} ")), count(&format!("</{tag}>")), "{tag}");
        }
    }

    #[test]
    fn a_path_that_is_not_utf_8_is_refused() {
        use std::os::unix::ffi::OsStrExt as _;
        let program = std::ffi::OsStr::from_bytes(b"/\xff").into();
        let service = Service { program, ..service("", &[]) };
        assert!(service.unit().is_none() && service.agent().is_none());
    }
}
