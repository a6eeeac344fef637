//! Where the program of a command is, looked for as `execvp` does.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::PostApplyRefused;

/// Where names are looked for without `PATH`.
const PLACES: &str = "/usr/local/bin:/usr/bin:/bin";

/// The file that `program` is: a path, or the first executable of that name in `places`, which is what `PATH` says.
/// What is relative is taken from `here`.
pub(super) fn find(program: &str, places: Option<&OsStr>, here: &Path) -> Result<PathBuf, PostApplyRefused> {
    if program.contains('/') {
        let path = here.join(program);
        return match look(&path) {
            Look::Program => Ok(path),
            Look::Barred(why) => Err(PostApplyRefused::Barred { program: program.to_owned(), why }),
            Look::Nothing => Err(PostApplyRefused::Missing { program: program.to_owned() }),
        };
    }
    let mut barred = None;
    for place in places.unwrap_or(OsStr::new(PLACES)).as_bytes().split(|byte| *byte == b':') {
        // an empty place is the current directory
        let path = here.join(OsStr::from_bytes(place)).join(program);
        match look(&path) {
            Look::Program => return Ok(path),
            Look::Barred(why) => barred = barred.or(Some((path, why))),
            Look::Nothing => {}
        }
    }
    match barred {
        Some((path, why)) => Err(PostApplyRefused::Barred { program: path.to_string_lossy().into_owned(), why }),
        None => Err(PostApplyRefused::NotInPath { program: program.to_owned() }),
    }
}

enum Look {
    Program,
    /// Something is there, or may be, that this user cannot run.
    Barred(&'static str),
    Nothing,
}

fn look(path: &Path) -> Look {
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() => Look::Barred("is no file"),
        Ok(_) => match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => Look::Program,
            // an old kernel does not know the flag: whoever starts it finds out
            Err(Errno::INVAL | Errno::NOSYS) => Look::Program,
            Err(_) => Look::Barred("may not be run by this user"),
        },
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => Look::Barred("cannot be looked at by this user"),
        Err(_) => Look::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(at: PathBuf, mode: u32) -> PathBuf {
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(&at, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode)).unwrap();
        at
    }

    #[test]
    fn a_name_is_the_first_executable_of_its_places_and_a_path_is_itself() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path();
        file(here.join("a/tool"), 0o644);
        std::fs::create_dir_all(here.join("b/tool")).unwrap();
        let right = file(here.join("c/tool"), 0o755);
        let places = format!("{0}/a:{0}/b:{0}/nowhere:{0}/c", here.display());
        assert_eq!(find("tool", Some(OsStr::new(&places)), here).unwrap(), right);
        // relative places and paths are those of the directory that is named
        assert_eq!(find("tool", Some(OsStr::new("c")), here).unwrap(), right);
        assert_eq!(find("./c/tool", None, here).unwrap().canonicalize().unwrap(), right.canonicalize().unwrap());
        assert!(find("sh", None, here).is_ok());
    }

    #[test]
    fn what_is_not_there_and_what_may_not_be_run_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path();
        let plain = file(here.join("plain"), 0o644);
        let places = Some(here.as_os_str());
        for program in ["plain", plain.to_str().unwrap(), here.to_str().unwrap()] {
            let refused = find(program, places, here).unwrap_err();
            assert!(matches!(refused, PostApplyRefused::Barred { .. }), "{program}: {refused}");
        }
        assert!(matches!(find("nothing", places, here), Err(PostApplyRefused::NotInPath { .. })));
        assert!(matches!(find("/nowhere/at/all", places, here), Err(PostApplyRefused::Missing { .. })));
    }
}
