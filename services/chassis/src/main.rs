//! `pollux-chassis`: runs an enclosure, and lets programs and people reach into it.

use clap::{Parser, Subcommand};
use pollux_chassis::{Client, EXIT_CODES, Options, holder, run};
use pollux_platform::netns::{self, NetNs};
use std::{
    ffi::OsString,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

#[derive(Parser)]
#[command(name = "pollux-chassis", version, about = "The enclosure of an array in software", after_help = EXIT_CODES)]
struct Line {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run an enclosure until SIGTERM, SIGINT or chassis.shutdown
    Run(Box<Options>),
    /// Run a program in the hosts' network of a running enclosure
    Exec {
        /// Directory of the array
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "PROGRAM")]
        command: Vec<OsString>,
    },
    /// Press a button of a running enclosure and print the answer
    Call {
        /// Directory of the array
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The method, for instance chassis.status
        method: String,
        /// Its parameters as JSON, for instance {"controller":"a","action":"off"}
        params: Option<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Line::parse().action {
        Action::Run(options) => {
            pollux_runtime::daemon::init_log();
            run(*options).map_err(|error| (error.exit_code(), error.to_string()))
        }
        Action::Exec { dir, command } => exec(&dir, &command),
        Action::Call { dir, method, params } => call(&dir, &method, params.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            // Nobody may be reading standard error; the exit code still says it.
            let _ = writeln!(std::io::stderr(), "pollux-chassis: {message}");
            ExitCode::from(code)
        }
    }
}

type Failure = (u8, String);

/// Becomes `command` in the enclosure's own network, which is the hosts'. Returns only if that failed.
fn exec(dir: &Path, command: &[OsString]) -> Result<(), Failure> {
    let failed = |error: String| (1, error);
    let pid = holder(dir).map_err(|error| failed(error.to_string()))?;
    let pid = pid.ok_or_else(|| {
        failed(format!(
            "no enclosure runs in {}: start it with run",
            dir.display()
        ))
    })?;
    let network =
        NetNs::open(Path::new(&format!("/proc/{pid}/ns/net"))).map_err(|error| failed(error.to_string()))?;
    netns::join(pid, &network).map_err(|error| failed(error.to_string()))?;
    let (program, arguments) = command
        .split_first()
        .expect("the command line requires a program");
    let error = Command::new(program).args(arguments).exec();
    Err(failed(format!("{}: {error}", program.display())))
}

fn call(dir: &Path, method: &str, params: Option<&str>) -> Result<(), Failure> {
    let params: Option<serde_json::Value> = params
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| (2, format!("the parameters are no JSON: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| (1, error.to_string()))?;
    let answer: serde_json::Value = runtime
        .block_on(Client::new(dir).call(method, params))
        .map_err(|error| (1, error.to_string()))?;
    writeln!(std::io::stdout(), "{answer:#}").map_err(|error| (1, error.to_string()))
}
