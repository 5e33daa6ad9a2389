//! What an operator writes: it may be wrong in any way, and every problem has to be told.

use popgate::config;
use popgate::lab::Topology;
use popgate::tables::Compiler;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// The two files of a configuration, `popgate.toml` and a tenant's, with a zero byte between them.
pub fn config(data: &[u8]) {
    thread_local! {
        static DIRECTORY: TempDir = TempDir::new().expect("a temporary directory");
    }
    let zero = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (appliance, tenant) = data.split_at(zero);
    DIRECTORY.with(|directory| {
        let directory = directory.path();
        fs::create_dir_all(directory.join("tenants")).expect("tenants/");
        fs::write(directory.join("popgate.toml"), appliance).expect("written");
        fs::write(directory.join("tenants/acme.toml"), tenant.get(1..).unwrap_or_default()).expect("written");
        match config::load(directory) {
            Ok(candidate) => {
                candidate.summary();
                Compiler::new("fuzz-").compile(&candidate).expect("few names");
            }
            Err(problems) => assert!(!problems.to_string().is_empty()),
        }
    });
}

/// A lab's topology.
pub fn topology(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    // Its files are elsewhere: none is there.
    if let Err(problems) = Topology::parse(text, "lab.toml", Path::new("/nonexistent")) {
        assert!(!problems.to_string().is_empty());
    }
}
