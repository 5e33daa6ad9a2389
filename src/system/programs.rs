//! What other programs on the system say.

use std::process::{Command, Stdio};

/// What a program printed, and on its other stream if that was nothing; why not, if there is none or it failed.
pub(super) fn said(line: &[&str]) -> Result<String, String> {
    let Some((program, arguments)) = line.split_first() else { return Err("no program".into()) };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    if output.status.success() {
        Ok(if out.is_empty() { err } else { out })
    } else {
        Err(format!("{}: {}", line.join(" "), if err.trim().is_empty() { out.trim() } else { err.trim() }))
    }
}
