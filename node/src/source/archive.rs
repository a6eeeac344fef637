//! What of a walked tree an archive holds (SPEC §13.5): neither links nor names that other readers of ZIP files take for
//! something else.

use me_sync_protocol::archive::Names;

use super::skipped::{Skipped, SkippedReport};
use super::tree::Kind;
use super::{Source, SourceError, SourceSummary};

impl Source {
    /// The same tree for an archive. What that cannot hold is left out with `skip_unsupported`, as if it had a name that no
    /// manifest can hold, with all that lies below it.
    ///
    /// # Errors
    /// Without `skip_unsupported`: there is such a thing. It is named.
    // SPEC §13.5
    pub fn for_archive(mut self) -> Result<Self, SourceError> {
        let mut unfit = Skipped::default();
        let (mut names, mut path) = (Names::default(), String::new());
        for index in 0..u32::try_from(self.tree.records().len()).unwrap_or(u32::MAX) {
            let record = self.tree.record(index);
            let parent = record.parent().map(|parent| self.tree.record(parent).kind);
            let is_link = record.kind == Kind::Symlink;
            if record.kind == Kind::LeftOut {
                continue;
            }
            if parent == Some(Kind::LeftOut) {
                self.tree.leave_out(index);
                continue;
            }
            self.tree.path(index, &mut path);
            if is_link {
                unfit.add(path.as_bytes(), "an archive holds no symbolic links");
                self.tree.leave_out(index);
            } else if let Err(why) = names.add(&path) {
                unfit.add(path.as_bytes(), why);
                self.tree.leave_out(index);
            }
        }
        if unfit.count == 0 {
            return Ok(self);
        }
        if !self.options.skip_unsupported {
            let report = SkippedReport { unsupported: unfit, ..SkippedReport::default() };
            return Err(SourceError::Refused { report: Box::new(report) });
        }
        let mut skipped = self.summary.skipped;
        skipped.unsupported.count += unfit.count;
        skipped.unsupported.names.extend(unfit.names);
        skipped.unsupported.names.truncate(super::skipped::MAX_NAMES);
        self.summary = SourceSummary::of(self.summary.root, &self.tree, skipped);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroUsize;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::AtomicBool;

    use super::super::{HashProgress, ScanOptions};
    use super::*;

    // SPEC §13.5
    #[test]
    fn links_and_names_that_others_read_otherwise_are_refused_by_name_or_left_out_with_what_lies_below() {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir_all(tmp.path().join("C:dir/below")).unwrap();
        fs::create_dir(tmp.path().join("fine")).unwrap();
        for name in ["fine/a", "back\\slash", "Twin", "twin", "C:dir/below/file", "12:30"] {
            fs::write(tmp.path().join(name), name).unwrap();
        }
        symlink("fine", tmp.path().join("link")).unwrap();
        let refused = Source::scan(tmp.path(), &ScanOptions::default()).unwrap().for_archive().unwrap_err();
        let text = refused.to_string();
        for name in ["C:dir", "back\\slash", "twin", "link"] {
            assert!(text.contains(name), "{name} in {text}");
        }
        assert!(!text.contains("below") && !text.contains("12:30") && text.contains("4 entries"), "{text}");
        let options = ScanOptions { skip_unsupported: true, ..ScanOptions::default() };
        let source = Source::scan(tmp.path(), &options).unwrap().for_archive().unwrap();
        let summary = source.summary();
        assert_eq!((summary.files, summary.dirs, summary.symlinks), (3, 1, 0));
        assert_eq!(summary.skipped.unsupported.count, 4);
        let stop = AtomicBool::new(false);
        let snapshot = source.hash(NonZeroUsize::MIN, None, &HashProgress::default(), &stop).unwrap();
        let paths: Vec<_> = snapshot.manifest().entries().map(|(_, e)| e.path.as_str().to_owned()).collect();
        assert_eq!(paths, ["12:30", "Twin", "fine", "fine/a"]);
    }

    #[test]
    fn a_tree_that_fits_stays_as_it_is() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("a"), "a").unwrap();
        let source = Source::scan(tmp.path(), &ScanOptions::default()).unwrap().for_archive().unwrap();
        assert_eq!((source.summary().files, source.summary().skipped.total()), (1, 0));
    }
}
