//! After a boot: a version on trial is kept when the box is healthy, and the box starts anew when it is not, so that GRUB counts.

use super::slots::{Disk, Environment};
use super::status::{Outcome, Status};
use super::{RUNTIME, Told, in_slots, pause, running_version, start_anew};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Looks, one a second, in a row with the same process: longer than the service's watchdog has patience (30 s), so that a box
/// that does not forward has been caught by it.
const HEALTHY_LOOKS: u32 = 35;
/// And where nothing is configured, with the system up.
const IDLE_LOOKS: u32 = 5;
/// A box that is not healthy by then is not going to be.
const MAX_LOOKS: u32 = 300;

const CONFIGURATION: &str = "/etc/popgate/popgate.toml";
const SERVICE: &str = "popgate.service";

pub(super) fn settle(now_unix: u64) -> Told {
    let disk = Disk::of_root()?;
    let mut environment = disk.environment()?;
    let version = running_version()?;
    let mut told = String::new();
    let mut status = Status::read();
    if disk.on_trial && environment.good != disk.running {
        if let Err(why) = await_health() {
            start_anew()?;
            return Ok(format!("popgate: update: {version} is not healthy ({why}): the box starts anew"));
        }
        environment = Environment { good: disk.running, trial: None, ..environment };
        disk.set_environment(&environment)?;
        status.note(Outcome::Kept, Some(&version), String::new(), now_unix);
        told = format!("popgate: update: {status}");
    } else if let Some((slot, 0)) = environment.trial.filter(|(slot, _)| *slot != disk.running) {
        let left = environment.versions.get(slot.name()).and_then(|it| it.parse().ok());
        environment.trial = None;
        disk.set_environment(&environment)?;
        status.note(Outcome::FellBack, left.as_ref(), String::new(), now_unix);
        told = format!("popgate: update: {status}");
    }
    let slots = in_slots(&environment);
    if !told.is_empty() || status.slots != slots {
        status.slots = slots;
        status.write()?;
    }
    fs::create_dir_all(RUNTIME)?;
    fs::write(marker(), "")?;
    Ok(told.trim_end().to_owned())
}

/// Waits until the running version is kept or there was nothing to keep.
pub(super) fn await_settled(seconds: u32) {
    for _ in 0..seconds {
        if marker().exists() {
            return;
        }
        pause();
    }
}

fn marker() -> std::path::PathBuf {
    Path::new(RUNTIME).join("settled")
}

/// # Errors
/// Why it is not healthy.
fn await_health() -> Result<(), String> {
    let (mut looks, mut process) = (0, String::new());
    let mut state = String::new();
    for _ in 0..MAX_LOOKS {
        let configured = Path::new(CONFIGURATION).exists();
        let (healthy, now) = if configured {
            state = asked(&["show", "--property=ActiveState", "--value", SERVICE]);
            if state == "failed" {
                return Err(format!("{SERVICE} has failed"));
            }
            (state == "active", asked(&["show", "--property=MainPID", "--value", SERVICE]))
        } else {
            state = asked(&["is-system-running"]);
            // One part that failed is no reason to leave a version, which may mend it.
            (matches!(&*state, "running" | "degraded"), String::new())
        };
        looks = if healthy && now == process { looks + 1 } else { 0 };
        process = now;
        if looks >= if configured { HEALTHY_LOOKS } else { IDLE_LOOKS } {
            return Ok(());
        }
        pause();
    }
    Err(format!("it is {state} after {MAX_LOOKS} s"))
}

fn asked(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output();
    output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default()
}
