//! What a commit costs on a large box: reading and checking its texts, compiling them, asking for rules that never decide, and
//! the moment in which a worker goes over to it, for which its packets wait.

use crate::Wanted;
use crate::measure::{cpu_time, median, since};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use popgate::config::Documents;
use popgate::model::{Instant, Now};
use popgate::pipeline::{Team, Worker};
use popgate::tables::Compiler;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const TENANTS: usize = 1_000;
const BRANCHES: usize = 10;
const RULES: usize = 100;
const ROUNDS: usize = 3;

/// Runs the case if it is `wanted`.
pub fn rows(wanted: &Wanted) -> Vec<Value> {
    let name = format!("commit: {TENANTS} tenants, {BRANCHES} branches, {RULES} rules");
    if !wanted.has(&name) {
        return Vec::new();
    }
    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("fra1.key");
    std::fs::write(&key, STANDARD.encode([7; 32])).expect("written");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let texts = texts();
    let bytes: usize = texts.values().map(String::len).sum();
    let documents = Documents::from_texts(texts).expect("a configuration's names");

    let mut compiler = Compiler::new("bench-");
    let (mut check, mut compile, mut warn, mut adopt) = (vec![], vec![], vec![], vec![]);
    let timed = |samples: &mut Vec<f64>, begin| samples.push(since(begin) / 1e6);
    let mut worker = None;
    for round in 0..ROUNDS {
        // As a commit does: all of it anew, though a line is changed.
        let begin = cpu_time();
        let candidate = documents.check(dir.path()).unwrap_or_else(|problems| panic!("{problems}"));
        timed(&mut check, begin);
        let begin = cpu_time();
        let generation = Arc::new(compiler.compile(&candidate).expect("ids are left"));
        timed(&mut compile, begin);
        let begin = cpu_time();
        assert_eq!(generation.unreachable_rules().len(), 0);
        timed(&mut warn, begin);
        let now = Now { instant: Instant(1_000_000_000 * (round as u64 + 1)), unix_nanos: 0 };
        match &mut worker {
            None => worker = Some(Worker::new(0, &Team::new(1), [7; 32], generation, now)),
            Some(worker) => {
                let begin = cpu_time();
                worker.adopt(generation, now);
                timed(&mut adopt, begin);
            }
        }
    }
    let [check, compile, warn, adopt] = [check, compile, warn, adopt].map(median);
    println!(
        "{name}: {:.1} MB checked in {check:.0} ms, compiled in {compile:.0} ms (asked 2,000 for both), \
         unreachable rules {warn:.0} ms; a worker's packets wait {adopt:.1} ms",
        bytes as f64 / 1e6
    );
    vec![json!({
        "name": name,
        "bytes": bytes,
        "check_ms": check,
        "compile_ms": compile,
        "unreachable_rules_ms": warn,
        "adopt_ms": adopt,
    })]
}

fn texts() -> BTreeMap<String, String> {
    let mut rng = StdRng::seed_from_u64(7);
    let appliance = "site = \"fra1\"\nrole = \"pop\"\nprivate-key-file = \"fra1.key\"\nmax-sessions = 10000\n\n\
                     [[transport]]\nname = \"isp\"\nlisten = \"192.0.2.1:51820\"\n";
    let tenants = (0..TENANTS).map(|n| (format!("tenants/t{n:04}.toml"), tenant(n, &mut rng)));
    tenants.chain([("popgate.toml".to_owned(), appliance.to_owned())]).collect()
}

fn tenant(n: usize, rng: &mut StdRng) -> String {
    let mut text = format!("tenant = \"t{n:04}\"\n\n");
    for branch in 0..BRANCHES {
        let key = STANDARD.encode(rng.random::<[u8; 32]>());
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "[[branch]]\nname = \"b{branch}\"\nprefixes = [\"10.{branch}.0.0/16\"]\n\
             [[branch.path]]\nname = \"dsl\"\npublic-key = \"{key}\"\n\n"
        );
    }
    let (high, low) = (n / 256, n % 256);
    let _ = write!(
        text,
        "[[handoff]]\nname = \"internet\"\nkind = \"internet\"\nnat-pool = [\"198.{}.{low}.0/29\"]\n\n",
        18 + high
    );
    for rule in 0..RULES {
        let (branch, port) = (rule % BRANCHES, 1_000 + rule);
        let net: u8 = rng.random();
        let _ = write!(
            text,
            "[[acl]]\nname = \"r{rule}\"\nfrom = [\"branch:b{branch}\"]\nto = [\"203.0.{net}.0/24\"]\nprotocol = \"tcp\"\n\
             dst-port = {port}\naction = \"accept\"\n\n"
        );
    }
    text
}
