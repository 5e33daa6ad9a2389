//! The ledger's directory: `0000000007.log` is being written to, `0000000006.segment` and those before it are closed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(super) const LOG: &str = "log";
pub(super) const SEGMENT: &str = "segment";

/// What is in the directory, by sequence number.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) logs: Vec<(u64, PathBuf)>,
    pub(super) segments: Vec<(u64, PathBuf)>,
}

impl Files {
    pub(super) fn list(dir: &Path) -> io::Result<Files> {
        let mut files = Files::default();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let sequence = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let Some(sequence) = sequence else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(LOG) => files.logs.push((sequence, path)),
                Some(SEGMENT) => files.segments.push((sequence, path)),
                _ => {}
            }
        }
        files.logs.sort();
        files.segments.sort();
        Ok(files)
    }

    /// The number that no file has yet.
    pub(super) fn next(&self) -> u64 {
        let last = self.logs.last().into_iter().chain(self.segments.last()).map(|(sequence, _)| *sequence);
        last.max().map_or(1, |last| last + 1)
    }

    pub(super) fn has_segment(&self, sequence: u64) -> bool {
        self.segments.binary_search_by_key(&sequence, |(sequence, _)| *sequence).is_ok()
    }
}

pub(super) fn path_of(dir: &Path, sequence: u64, kind: &str) -> PathBuf {
    dir.join(format!("{sequence:010}.{kind}"))
}
