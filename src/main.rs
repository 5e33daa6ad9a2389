//! `popgate`: the command line; wiring only.

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use popgate::admin;
use popgate::config::{PrivateKey, public_of};
use popgate::system::commands;
use rand::TryRngCore;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, SystemTimeError, UNIX_EPOCH};

#[derive(Parser)]
#[command(version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a configuration and run its policy tests: print every problem as file:line: message, or what it holds
    Check {
        /// The directory with popgate.toml and tenants/
        dir: PathBuf,
    },
    /// Run the box in the foreground, until SIGTERM; SIGHUP loads the configuration anew
    Run {
        /// The directory with popgate.toml and tenants/
        dir: PathBuf,
    },
    /// Ask the running box about itself
    Show(admin::ShowArgs),
    /// List the apps that policies can name; of one, what it is known by
    Apps {
        name: Option<String>,
    },
    Compare(admin::CompareArgs),
    Commit(admin::CommitArgs),
    Confirm(admin::ConfirmArgs),
    Rollback(admin::RollbackArgs),
    Revisions(admin::RevisionsArgs),
    DryRun(admin::DryRunArgs),
    Audit(admin::AuditArgs),
    Explain(Box<admin::ExplainArgs>),
    Flows(Box<admin::FlowsArgs>),
    Trace(Box<admin::TraceArgs>),
    Capture(Box<admin::CaptureArgs>),
    Clear(admin::ClearArgs),
    WhoHad(admin::WhoHadArgs),
    /// Compute whose a public address and port is, where nat-blocks are deterministic: prints TENANT/BRANCH
    WhoHas {
        /// ADDRESS:PORT
        outside: SocketAddr,
        /// The directory with popgate.toml and tenants/, as it was at the time in question
        dir: PathBuf,
    },
    Users(admin::UsersArgs),
    Tokens(admin::TokensArgs),
    /// Connect a branch: at the branch with a code, at the PoP by making and approving codes
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Enrol {
        #[command(subcommand)]
        what: Option<admin::EnrolWhat>,
        #[command(flatten)]
        args: popgate::run::EnrolArgs,
    },
    SetupLink(admin::SetupLinkArgs),
    /// Put what paths were judged by through the same decisions again: prints which app classes move, when and why
    Replay {
        /// What `popgate show measurements` has printed
        journal: PathBuf,
        /// The directory with popgate.toml and tenants/ to decide by
        #[arg(long, default_value = "/etc/popgate")]
        policy: PathBuf,
    },
    Doctor(commands::DoctorArgs),
    SupportBundle(commands::BundleArgs),
    Backup(commands::BackupArgs),
    Restore(commands::RestoreArgs),
    Setup(commands::SetupArgs),
    Screen(popgate::run::ScreenArgs),
    Update(popgate::update::UpdateArgs),
    /// Print a new private key
    Genkey,
    /// Read a private key, print its public key
    Pubkey,
    /// Print what completes popgate's commands in a shell
    Completions {
        shell: Shell,
    },
    /// Write a page of the manual for each command
    #[command(hide = true)]
    Manual {
        /// A directory that is there
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check { dir } => check(&dir),
        Command::Run { dir } => run(&dir),
        Command::Show(args) => Ok(admin::show(args)),
        Command::Apps { name } => apps(name.as_deref()),
        Command::Compare(args) => Ok(admin::compare(&args)),
        Command::Commit(args) => Ok(admin::commit(&args)),
        Command::Confirm(args) => Ok(admin::confirm(&args)),
        Command::Rollback(args) => Ok(admin::rollback(&args)),
        Command::Revisions(args) => Ok(admin::revisions(&args)),
        Command::DryRun(args) => Ok(admin::dry_run(&args)),
        Command::Audit(args) => Ok(admin::audit(&args)),
        Command::Explain(args) => Ok(admin::explain(&args, popgate::run::explain_candidate)),
        Command::Flows(args) => Ok(admin::flows(&args)),
        Command::Capture(args) => Ok(admin::capture(&args)),
        Command::Trace(args) => Ok(admin::trace_flow(&args)),
        Command::Clear(args) => Ok(admin::clear(&args)),
        Command::WhoHad(args) => Ok(admin::who_had(&args, popgate::run::who_had_offline)),
        Command::Users(args) => random().map(|random| admin::users(&args, || random)),
        Command::Tokens(args) => Ok(admin::tokens(&args)),
        Command::Enrol { what: Some(what), .. } => Ok(admin::enrol(&what)),
        Command::Enrol { what: None, args } => {
            popgate::run::enrol(&args).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Command::SetupLink(args) => setup_link(&args),
        Command::WhoHas { outside, dir } => who_has(&dir, outside),
        Command::Replay { journal, policy } => replay(&journal, &policy),
        Command::Doctor(args) => doctor(&args),
        Command::SupportBundle(args) => support_bundle(&args),
        Command::Backup(args) => commands::backup(&args).map_err(Into::into).and_then(|said| say(&said)),
        Command::Restore(args) => restore(&args),
        Command::Setup(args) => set_up(&args),
        Command::Screen(args) => popgate::run::screen(&args).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Command::Update(args) => update(&args),
        Command::Genkey => genkey(),
        Command::Pubkey => pubkey(),
        Command::Completions { shell } => completions(shell),
        Command::Manual { dir } => manual(&dir),
    };
    done.unwrap_or_else(|error| {
        eprintln!("popgate: {error}");
        ExitCode::FAILURE
    })
}

type Done = Result<ExitCode, Box<dyn std::error::Error>>;

fn check(dir: &Path) -> Done {
    let mut stdout = io::stdout();
    match popgate::run::check(dir) {
        Ok(checked) => {
            for problem in checked.warnings.iter().chain(&checked.failed) {
                writeln!(stdout, "{problem}")?;
            }
            if !checked.failed.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
            writeln!(stdout, "ok: {}", checked.candidate.summary())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            write!(stdout, "{problems}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run(dir: &Path) -> Done {
    let filter = tracing_subscriber::EnvFilter::try_from_env("POPGATE_LOG")
        // boringtun tells of every retry; what it means is told by us.
        .unwrap_or_else(|_| "info,boringtun=off".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let log = log.with_ansi(io::stderr().is_terminal());
    // The journal notes the time of every line itself.
    if is_journal(&io::stderr()) {
        log.without_time().init()
    } else {
        log.init()
    }
    popgate::run::run(dir)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a stream goes to systemd's journal: what runs within a service has the variable too, wherever it writes to
/// (systemd.exec(5)).
fn is_journal(stream: &impl AsFd) -> bool {
    let Some(journal) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let metadata = stream.as_fd().try_clone_to_owned().and_then(|stream| File::from(stream).metadata());
    metadata.is_ok_and(|it| *journal == *format!("{}:{}", it.dev(), it.ino()))
}

fn apps(name: Option<&str>) -> Done {
    let text = match name {
        None => admin::list_apps(),
        Some(name) => {
            admin::describe_app(name).ok_or_else(|| format!("there is no app {name:?} in the catalog"))?
        }
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn who_has(dir: &Path, outside: SocketAddr) -> Done {
    writeln!(io::stdout(), "{}", popgate::run::who_has(dir, outside)?)?;
    Ok(ExitCode::SUCCESS)
}

fn replay(journal: &Path, policy: &Path) -> Done {
    let (moves, unknown) = popgate::run::replay(journal, policy)?;
    if unknown > 0 {
        eprintln!("popgate: {unknown} measurements are of paths that {} does not have", policy.display());
    }
    io::stdout().write_all(admin::decisions(&moves).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn update(args: &popgate::update::UpdateArgs) -> Done {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(popgate::update::update(args, now.as_secs()))
}

fn genkey() -> Done {
    let stdout = io::stdout();
    let output = File::from(stdout.as_fd().try_clone_to_owned()?).metadata()?;
    if output.is_file() && output.permissions().mode() & 0o077 != 0 {
        eprintln!(
            "popgate: this file is open to others, and popgate will refuse it; `umask 077` first, or chmod 600"
        );
    }
    writeln!(&stdout, "{}", PrivateKey::from_random(random()?).to_base64())?;
    Ok(ExitCode::SUCCESS)
}

fn random() -> Result<[u8; 32], Box<dyn std::error::Error>> {
    let mut random = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut random).map_err(|error| error.to_string())?;
    Ok(random)
}

fn unix_secs() -> Result<u64, SystemTimeError> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn say(text: &str) -> Done {
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn doctor(args: &commands::DoctorArgs) -> Done {
    let (found, is_bad) = commands::doctor(args, &std::env::current_exe()?, unix_secs()?);
    say(&found)?;
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn support_bundle(args: &commands::BundleArgs) -> Done {
    say(&commands::support_bundle(args, &std::env::current_exe()?, unix_secs()?)?)
}

fn restore(args: &commands::RestoreArgs) -> Done {
    say(&commands::restore(args, unix_secs()?)?)
}

fn set_up(args: &commands::SetupArgs) -> Done {
    match &args.from {
        Some(from) => say(&commands::setup(from, args, unix_secs()?)?),
        None => Ok(if popgate::run::set_up(args)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

fn setup_link(args: &admin::SetupLinkArgs) -> Done {
    let (random, now) = (random()?, SystemTime::now().duration_since(UNIX_EPOCH)?);
    Ok(admin::print_setup_link(args, || random, u64::try_from(now.as_millis())?))
}

fn pubkey() -> Done {
    let mut text = String::new();
    // 1024: a key is 44 bytes; whatever is longer is none.
    io::stdin().take(1024).read_to_string(&mut text)?;
    let private: PrivateKey = text.trim_ascii().parse()?;
    writeln!(io::stdout(), "{}", public_of(&private))?;
    Ok(ExitCode::SUCCESS)
}

fn completions(shell: Shell) -> Done {
    // Whole before any of it is written: what it is written to may be closed early.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "popgate", &mut text);
    io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn manual(dir: &Path) -> Done {
    clap_mangen::generate_to(Cli::command(), dir)?;
    Ok(ExitCode::SUCCESS)
}
