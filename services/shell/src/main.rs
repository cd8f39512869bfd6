//! The operator's command; see the library.

use clap::Parser;
use pollux_api::heartbeat::Machine;
use pollux_runtime::Ctx;
use pollux_shell::array::{CHANGE, Place};
use pollux_shell::cli::{Command, Line, Pair, Quorum};
use pollux_shell::configuration;
use pollux_shell::error::Error;
use pollux_shell::moves::{self, Move};
use pollux_shell::print::Style;
use pollux_shell::resources::{self, Shown};
use pollux_shell::shutdown::Wanted;
use pollux_shell::{
    action, disarm, disk, enclosure, file_systems, machine, pair, quorum, setup, shutdown, space, status,
    timeline, token, trace, words,
};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    // What follows `demo` belongs to pollux-demo, also where it looks like an option of this program.
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "demo") {
        let error = demo(&arguments[1..]);
        let _ = writeln!(std::io::stderr(), "pollux: {error}");
        return ExitCode::from(error.exit_code());
    }
    let line = Line::parse();
    let json = line.common.json;
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed(format!("cannot start: {error}"), "is there memory left?"))
        .and_then(|runtime| runtime.block_on(run(line)));
    match outcome {
        Ok(shown) => {
            let text = if json {
                format!("{:#}\n", shown.json)
            } else {
                shown.text
            };
            // `pollux status | head` closes the pipe early; that is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            if json {
                let _ = writeln!(std::io::stdout(), "{:#}", json!({ "error": error.to_rpc() }));
            }
            let _ = writeln!(std::io::stderr(), "pollux: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(line: Line) -> Result<Shown, Error> {
    let Line { common, command } = line;
    let place = Place {
        controller: common.controller,
        dir: common.dir,
        on: common.on,
    }
    .or_this_machine();
    let (style, under) = (Style::of_stdout(), common.action);
    match command {
        Command::Demo { .. } => {
            return Err(Error::usage(
                "options stand before `demo`",
                "pollux demo OPTIONS; see pollux demo --help",
            ));
        }
        Command::Chassis(command) => return enclosure::run(place.array_dir()?, command, style).await,
        Command::Pair(Pair::Show) => return pair::show(&place).await,
        Command::Pair(Pair::Enter) => return pair::enter(&place).await,
        Command::Setup(what) => return setup::run(&place, &what).await,
        Command::Quorum {
            what: Some(Quorum::Format),
        } => return quorum::format(&place),
        Command::Disarm => return disarm::run(&place).await,
        Command::Machine => return machine::run(&place).await,
        Command::Completion { shell } => return Ok(words::completion(shell)),
        Command::Manual { folder } => return words::manual(&folder),
        _ => {}
    }
    let array = place.connect().await?;
    match command {
        Command::Demo { .. }
        | Command::Chassis(_)
        | Command::Pair(_)
        | Command::Setup(_)
        | Command::Disarm
        | Command::Machine
        | Command::Completion { .. }
        | Command::Manual { .. } => unreachable!("handled before the array is asked"),
        Command::Status => {
            let report = status::gather(&array).await;
            Ok(Shown::new(status::render(&report, style), &report))
        }
        Command::Why => {
            let why = status::why(&array).await;
            Ok(Shown::new(status::render_why(&why, style), &why))
        }
        Command::Timeline { id, limit } => {
            let report = timeline::gather(&array, id, limit).await?;
            let names = status::snapshot(&array).await.ok();
            Ok(Shown::new(
                timeline::render(&report, names.as_ref(), style),
                &report,
            ))
        }
        Command::Trace { id, limit, all } => {
            let report = trace::gather(&array, id, limit).await?;
            Ok(Shown::new(trace::render(&report, id, all, style), &report))
        }
        Command::Action(command) => action::run(&array, command).await,
        Command::Switchover { pool, care } => {
            moves::run(&array, Move::Switchover(pool), care, under, style).await
        }
        Command::Giveback { pool, care } => {
            moves::run(&array, Move::Giveback(pool), care, under, style).await
        }
        Command::Takeover {
            partner: _,
            override_epoch,
            care,
        } => moves::run(&array, Move::Takeover(override_epoch), care, under, style).await,
        Command::Shutdown { reason, care } => {
            let wanted = Wanted {
                on: common.on,
                machine: Machine::Off,
                reason,
                care,
            };
            shutdown::run(&array, wanted, under).await
        }
        Command::Reboot { reason, care } => {
            if common.on.is_none() {
                return Err(Error::usage(
                    "one controller is rebooted at a time, and nothing says which",
                    "pollux reboot --on a, and when it has joined again --on b",
                ));
            }
            let wanted = Wanted {
                on: common.on,
                machine: Machine::Reboot,
                reason,
                care,
            };
            shutdown::run(&array, wanted, under).await
        }
        Command::Leave => shutdown::leave(&array).await,
        Command::Abort { pool } => {
            let care = pollux_shell::cli::Care {
                dry_run: false,
                yes: true,
                wait: 0,
            };
            moves::run(&array, Move::Abort(pool), care, under, style).await
        }
        Command::Disk(command) => disk::run(&array, command, under, style).await,
        Command::Quorum { what } => quorum::run(&array, what, under, style).await,
        Command::Pool(command) => resources::pool(&array, command, under).await,
        Command::Volume(command) => resources::volume(&array, command, under).await,
        Command::FileSystem(command) => file_systems::run(&array, command, under).await,
        Command::Snapshot(command) => space::snapshot(&array, command, under).await,
        Command::Host(command) => resources::host(&array, command, under).await,
        Command::Map(command) => resources::map(&array, command, under).await,
        Command::Address(command) => resources::address(&array, command, under).await,
        Command::Config(pollux_shell::cli::Config::Open { care }) => {
            moves::run(&array, Move::OpenAlone, care, under, style).await
        }
        Command::Config(command) => configuration::config(&array, command, under, style).await,
        Command::Token(command) => token::run(&array, command, under, style).await,
        Command::Management => Ok(token::management(&array, style).await),
        Command::Call { method, params } => {
            let params = params.as_deref().unwrap_or("null");
            let params: Value = serde_json::from_str(params).map_err(|error| {
                Error::usage(
                    format!("the parameters are no JSON: {error}"),
                    "for instance '{\"limit\":1}'",
                )
            })?;
            let ctx = under.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE));
            let answer: Value = array.ask(array.here, &method, &params, &ctx).await?;
            Ok(Shown {
                text: format!("{answer:#}\n"),
                json: answer,
            })
        }
    }
}

/// Becomes `pollux-demo`, which stands beside this program.
fn demo(arguments: &[OsString]) -> Error {
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return Error::failed(format!("cannot find myself: {error}"), "is /proc mounted?"),
    };
    let program = own.with_file_name("pollux-demo");
    // Returns only if it failed.
    let error = std::process::Command::new(&program).args(arguments).exec();
    Error::failed(
        format!("cannot run {}: {error}", program.display()),
        "build it: `cargo demo` does",
    )
}
