//! `pollux-demo`: starts a whole array, lets a fault strike while a host writes, and says whether
//! every promise was kept.
//!
//! Exit codes: 0 PASS; 1 FAIL: a promise was broken; 2 it could not be shown (something is missing
//! or did not start; the message says what); 130 interrupted.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pollux_pair::demo::{Demo, Fault};
use pollux_runtime::Profile;

/// Start a whole array, let a fault strike while a host writes, and see what is left.
///
/// Exit codes: 0 PASS, 1 FAIL, 2 could not be shown, 130 interrupted.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What strikes in the middle
    #[arg(long, value_enum, default_value = "power")]
    fault: Fault,
    /// Copy this file instead of a filesystem made on the spot
    #[arg(long)]
    image: Option<PathBuf>,
    /// Leave the array running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Volumes on each of the two pools
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    volumes: u16,
    /// Decides everything that chance decides
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Timing profile
    #[arg(long, default_value = "fast", value_name = "fast|safe|ci", value_parser = profile)]
    profile: Profile,
    /// Directory of the array (short: sockets live in it); a scratch directory if not given
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn profile(text: &str) -> Result<Profile, String> {
    [Profile::Fast, Profile::Safe, Profile::Ci]
        .into_iter()
        .find(|profile| profile.as_str() == text)
        .ok_or_else(|| format!("{text:?} is no profile; there are fast, safe and ci"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    watch_signals();
    let demo = Demo {
        fault: arguments.fault,
        image: arguments.image,
        keep: arguments.keep,
        volumes: arguments.volumes,
        seed: arguments.seed,
        profile: arguments.profile,
        directory: arguments.dir,
        json: arguments.json,
    };
    match demo.run() {
        Ok(outcome) => {
            if arguments.json {
                println!("{}", serde_json::to_string(&outcome).expect("plain data"));
            }
            let word = if outcome.pass { "PASS" } else { "FAIL" };
            if !arguments.json {
                println!("{word}");
            }
            if outcome.pass {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            }
        }
        // Whatever broke first, it broke because everything was being ended.
        Err(_) if pollux_pair::wait::interrupted() => {
            eprintln!("interrupted; everything that was started has been ended");
            ExitCode::from(130)
        }
        Err(err) => {
            eprintln!("pollux-demo: {err}");
            if arguments.json {
                println!(
                    "{}",
                    serde_json::json!({ "pass": false, "error": err.to_string() })
                );
            } else {
                println!("FAIL (could not be shown)");
            }
            ExitCode::from(2)
        }
    }
}

/// Turns Ctrl-C and SIGTERM into the end of every wait, so that everything is ended in order.
fn watch_signals() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            pollux_pair::wait::interrupt();
        });
    });
}
