//! Everything the fuzzer has found, and what it began with, through the same code; it also keeps the two lists together.

#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn names(directory: &str) -> Vec<String> {
    let stem = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files(&root().join(directory)).iter().map(stem).collect()
}

fn target_names() -> Vec<String> {
    targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[test]
fn every_file_of_the_corpus_goes_through_its_target() {
    for name in target_names() {
        let files = files(&root().join("tests/corpus").join(&name));
        assert!(!files.is_empty(), "{name} has a corpus");
        for file in files {
            // A panic is told with the file that made it.
            eprintln!("{}", file.display());
            targets::run(&name, &fs::read(&file).expect("readable"));
        }
    }
}

#[test]
fn every_target_has_a_folder_of_the_corpus_and_a_binary() {
    let mut folders = names("tests/corpus");
    folders.retain(|name| name != "README");
    assert_eq!(folders, target_names());
    assert_eq!(names("tests/fuzz/bin"), target_names());
    let manifest = fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).expect("readable");
    let binaries =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"bin/")?.strip_suffix(".rs\""));
    assert_eq!(binaries.collect::<Vec<_>>(), target_names());
}

#[test]
fn the_corpus_is_small_enough_to_be_read_in_a_breath() {
    let folders = target_names().into_iter().map(|name| root().join("tests/corpus").join(name));
    let bytes: u64 =
        folders.flat_map(|folder| files(&folder)).map(|file| file.metadata().expect("a file").len()).sum();
    assert!(bytes < 300_000, "{bytes}");
}
