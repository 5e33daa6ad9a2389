//! A large box's configuration, for those who ask what a commit does to it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Of each tenant.
pub const BRANCHES: usize = 10;
pub const RULES: usize = 100;

/// Where every branch may go: the branch so many by TCP to port 1000 and so many.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

/// The files of so many tenants, whose branches have the same addresses; `key` gives the public key of a tenant's branch if it is
/// not to be any.
pub fn tenants(count: usize, key: impl Fn(usize, usize) -> Option<[u8; 32]>) -> BTreeMap<String, String> {
    let mut rng = StdRng::seed_from_u64(7);
    let files = (0..count).map(|n| (format!("tenants/t{n:04}.toml"), tenant(n, &key, &mut rng)));
    files.collect()
}

fn tenant(n: usize, key: &impl Fn(usize, usize) -> Option<[u8; 32]>, rng: &mut StdRng) -> String {
    let mut text = format!("tenant = \"t{n:04}\"\n\n");
    for branch in 0..BRANCHES {
        let key = STANDARD.encode(key(n, branch).unwrap_or_else(|| rng.random()));
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
        // The first rule of each branch is for the server.
        let (to, bits) = match rule < BRANCHES {
            true => (SERVER, 32),
            false => (Ipv4Addr::new(203, 0, rng.random(), 0), 24),
        };
        let _ = write!(
            text,
            "[[acl]]\nname = \"r{rule}\"\nfrom = [\"branch:b{branch}\"]\nto = [\"{to}/{bits}\"]\nprotocol = \"tcp\"\n\
             dst-port = {port}\naction = \"accept\"\n\n"
        );
    }
    text
}
