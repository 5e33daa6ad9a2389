//! Holds DESIGN's map: which module may import which, and that clocks, chance, sockets and `unsafe` stay where they belong.
//!
//! It reads the sources as text, without comments and strings. What it finds it prints as `file:line: what`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom directly; with that, everything those may import too. `run`, `main`, `lib` and the binaries wire
/// things together and may import anything.
const IMPORTS: [(&str, &[&str]); 17] = [
    ("model", &[]),
    ("wire", &["model"]),
    ("tunnel", &["wire"]),
    ("path", &["wire"]),
    ("flow", &["wire"]),
    ("config", &["model"]),
    ("tables", &["config"]),
    ("pipeline", &["tables", "tunnel", "path", "flow"]),
    ("export", &["flow"]),
    ("store", &["flow"]),
    // What it writes is whole or not there, as the store's files are; and it tells the store's data from what somebody has made.
    // A code that somebody types is looked at at once.
    ("system", &["config", "store", "enrol"]),
    ("io", &["pipeline", "export", "store"]),
    // Control passes queries on to workers, and the API shows the answers as they are: shapes, no more.
    // Its own files are whole or not there, as the store's are.
    ("control", &["tables", "pipeline::report", "export::report", "store::report", "store::whole"]),
    // What a branch and its PoP tell each other, and the files that a branch writes, whole or not at all.
    ("enrol", &["config", "store::whole"]),
    ("admin", &["control", "enrol"]),
    // What became of an update is a file that is whole or not there; and how one is given to the box is control's to say.
    ("update", &["store::whole", "control::updates"]),
    // The lab impairs links in user space, over io's TAP devices and clock.
    ("lab", &["io", "config"]),
];

const WIRING: [&str; 4] = ["run", "main", "lib", "bin"];

/// Words that reach for the world outside, and the modules that may; then what else may have a word, and why.
const AMBIENT: [&str; 12] = [
    "Instant::now",
    "SystemTime::now",
    "OsRng",
    "rand::rng(",
    "from_os_rng",
    "thread::spawn",
    "thread::Builder",
    "UdpSocket",
    "TcpListener",
    "TcpStream",
    "UnixStream",
    "UnixListener",
];
const WORLDLY: [&str; 6] = ["io", "lab", "run", "main", "lib", "bin"];
const AMBIENT_TOO: [(&str, &str, &str); 5] = [
    ("admin/mod.rs", "TcpListener", "bound by run, handed over"),
    ("admin/listen.rs", "TcpListener", "accepts on what run bound"),
    ("admin/listen.rs", "TcpStream", "what it accepted"),
    ("admin/listen.rs", "Instant::now", "how long a client may be silent; no packet waits for it"),
    ("admin/client.rs", "TcpStream", "`popgate show` is a client"),
];

/// Modules that may use tokio: the slow side.
const ASYNC: [&str; 7] = ["admin", "io", "lab", "run", "main", "lib", "bin"];

/// One source file, without what is not code.
struct Source {
    /// From `src` on: `wire/parse.rs`.
    path: String,
    module: String,
    lines: Vec<String>,
    /// Where the tests at its end begin.
    tests_at: usize,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.len() > 50, "src has more files than {}", files.len());
    files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(&root).expect("under src").to_string_lossy().into_owned();
            let module = path.split('/').next().unwrap_or(&path).trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(file).expect("readable");
            let lines: Vec<String> = code_of(&text).lines().map(str::to_owned).collect();
            let only_tests = path.ends_with("tests.rs") || path.contains("/tests/");
            let tests_at = if only_tests { Some(0) } else { tests_at(&lines) };
            Source { path, module, tests_at: tests_at.unwrap_or(lines.len()), lines }
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `mod tests {` behind `#[cfg(test)]`: STYLE has tests last.
fn tests_at(lines: &[String]) -> Option<usize> {
    lines.windows(2).position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].trim() == "mod tests {")
}

/// The text with comments and the insides of literals blanked; lines stay where they are.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = match rest {
            [b'/', b'/', ..] => at + until(rest, b"\n"),
            [b'/', b'*', ..] => at + until(rest, b"*/") + 2,
            [b'r', b'"', ..] | [b'r', b'#', ..] if !word_before(bytes, at) => at + raw_string(rest),
            [b'"', ..] => at + string(rest),
            // A character; a lifetime has no second quote.
            [b'\'', b'\\', _, b'\'', ..] => at + 4,
            [b'\'', _, b'\'', ..] => at + 3,
            _ => at,
        };
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            let end = end.min(bytes.len());
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn until(text: &[u8], what: &[u8]) -> usize {
    text.windows(what.len()).position(|window| window == what).unwrap_or(text.len())
}

fn word_before(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn string(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// 0 if it is a raw identifier.
fn raw_string(text: &[u8]) -> usize {
    let hashes = text[1..].iter().take_while(|byte| **byte == b'#').count();
    if text.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = 2 + hashes;
    body + until(&text[body..], &end) + end.len()
}

/// What `crate::` leads to, with the line: `pipeline::report`, `model`; of `crate::{a, b::c}` each.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let text = source.lines.join("\n");
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        if word_before(text.as_bytes(), at) || text[..at].ends_with('$') {
            continue;
        }
        let line = text[..at].matches('\n').count() + 1;
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push((line, first_two(&std::mem::take(&mut item)))),
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            if !item.trim().is_empty() {
                found.push((line, first_two(&item)));
            }
        } else {
            found.push((line, first_two(rest)));
        }
    }
    found
}

/// `pipeline::report` of `pipeline::report::{Query, …`, `model` of `model::Now`: a module's name is in small letters.
fn first_two(path: &str) -> String {
    let small = |part: &&str| part.starts_with(|c: char| c.is_ascii_lowercase());
    let end = path.trim().find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let path = &path.trim()[..end.unwrap_or(path.trim().len())];
    path.split("::").take(2).take_while(small).collect::<Vec<_>>().join("::")
}

/// Everything `module` may import, as paths: `pipeline` covers `pipeline::report`, not the other way round.
fn reachable(module: &str, table: &BTreeMap<&str, &[&'static str]>) -> BTreeSet<&'static str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&'static str> = table.get(module).copied().unwrap_or_default().to_vec();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(table.get(next).copied().unwrap_or_default());
        }
    }
    reached
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn imports_run_one_way() {
    let table: BTreeMap<&str, &[&str]> = IMPORTS.into_iter().collect();
    let mut problems = Vec::new();
    for source in sources() {
        if WIRING.contains(&source.module.as_str()) {
            continue;
        }
        if !table.contains_key(source.module.as_str()) {
            problems.push(format!("src/{}: module {} is not on the map", source.path, source.module));
        }
        let allowed = reachable(&source.module, &table);
        for (line, import) in imports(&source) {
            let top = import.split("::").next().unwrap_or_default();
            if top != source.module && !allowed.contains(top) && !allowed.contains(import.as_str()) {
                problems.push(format!("src/{}:{line}: {} imports {import}", source.path, source.module));
            }
        }
    }
    report(&problems);
}

#[test]
fn only_io_reads_clocks_draws_chance_and_opens_sockets() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !WORLDLY.contains(&source.module.as_str())) {
        for (index, line) in source.lines[..source.tests_at].iter().enumerate() {
            for word in AMBIENT.iter().filter(|word| line.contains(*word)) {
                if !AMBIENT_TOO.iter().any(|(path, too, _)| *path == source.path && too == word) {
                    problems.push(format!("src/{}:{}: {word}", source.path, index + 1));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn tokio_stays_on_the_slow_side() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !ASYNC.contains(&source.module.as_str())) {
        for (index, line) in source.lines[..source.tests_at].iter().enumerate() {
            if line.contains("tokio") {
                problems.push(format!("src/{}:{}: tokio in {}", source.path, index + 1, source.module));
            }
        }
    }
    report(&problems);
}

#[test]
fn unsafe_stays_in_io() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| source.module != "io") {
        for (index, line) in source.lines.iter().enumerate() {
            let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            if words.into_iter().any(|word| word == "unsafe") {
                problems.push(format!("src/{}:{}: unsafe", source.path, index + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_reader_of_sources_sees_code_and_nothing_else() {
    let text = "use crate::{a, b::{C, d}, wire::parse::X};\n// crate::no\nlet s = \"crate::no\"; crate::e::F;\n\
                let r = r#\"crate::no \"quoted\"\"#; '\"' /* crate::no */ crate::g\n";
    let lines = code_of(text).lines().map(str::to_owned).collect();
    let source = Source { path: "x.rs".into(), module: "x".into(), lines, tests_at: 0 };
    let seen: Vec<(usize, String)> = imports(&source);
    let told = |line: usize, path: &str| (line, path.to_owned());
    assert_eq!(seen, [told(1, "a"), told(1, "b"), told(1, "wire::parse"), told(3, "e"), told(4, "g")]);
}
