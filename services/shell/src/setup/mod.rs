//! `pollux setup`: makes this machine a controller of an array.
//!
//! It looks what is here ([`facts`]), says what that makes ([`propose`]), asks what only a person knows, and writes the
//! files ([`files`]) when it is told to go on, and has the clock kept where nothing keeps it. It changes nothing else: no
//! address, no disk, no daemon.
//!
//! It must never write over a file without saying what differs, and never without being told to.

pub mod facts;
pub mod files;
pub mod propose;
#[cfg(test)]
mod tests;

use crate::array::{OWN, Place};
use crate::cli::Setup;
use crate::error::Error;
use crate::moves::confirm;
use crate::print::{size, table};
use crate::resources::Shown;
use facts::{Clock, Facts};
use files::{State, Wanted};
use pollux_api::id::{ArrayId, DiskIndex};
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::FILE;
use propose::{Answers, Outcome, Problem, Proposal, Question};
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

/// Looks, asks, and writes.
///
/// # Errors
/// What keeps this machine from being a controller, or what was not answered.
pub async fn run(place: &Place, setup: &Setup) -> Result<Shown, Error> {
    let folder = place.controller.clone().unwrap_or_else(|| PathBuf::from(OWN));
    let mut answers = match &setup.answers {
        Some(file) => read_answers(file)?,
        None => Answers::default(),
    };
    if let Some(standing) = standing(&folder)? {
        let enclosure = files::read_enclosure(&folder)
            .map_err(|error| Error::usage(error, "correct the file, or move it away and begin anew"))?;
        answers.keep(&standing, enclosure.as_ref());
    }
    let facts = look(Path::new("/sys")).await?;
    let fresh = ArrayId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
    let may_ask = !setup.yes && io::stdin().is_terminal();
    let proposal = loop {
        match propose::propose(&facts, &answers, fresh) {
            Outcome::Ready(proposal) => break *proposal,
            Outcome::Refused(problems) => return Err(refused(&problems)),
            Outcome::Ask(questions) if may_ask => {
                for question in &questions {
                    ask(question, &mut answers)?;
                }
            }
            Outcome::Ask(questions) => return Err(unanswered(&questions)),
        }
    };
    let mut shown = conclude(&folder, &proposal, &facts, setup)?;
    if facts.clock == Clock::Alone && !setup.dry_run {
        shown.text += &match Clock::keep().await {
            Ok(()) => "time synchronization is on now; timedatectl says when the clock is right\n".to_owned(),
            Err(why) => format!(
                "time synchronization cannot be switched on ({why}): apt install systemd-timesyncd (or chrony), then \
                 timedatectl set-ntp true\n"
            ),
        };
    }
    Ok(shown)
}

/// Shows what a proposal makes of the files that are there, and writes it when it is told to.
fn conclude(folder: &Path, proposal: &Proposal, facts: &Facts, setup: &Setup) -> Result<Shown, Error> {
    let wanted = files::wanted(folder, proposal);
    let mut states = vec![];
    for file in &wanted {
        let state = file.state();
        states.push(state.map_err(|error| {
            Error::failed(
                format!("{}: {error}", file.path.display()),
                "it must be a file that can be read",
            )
        })?);
    }
    let text = render(proposal, facts, &wanted, &states, setup.dry_run);
    let json = json!({
        "controller": proposal.controller,
        "enclosure": proposal.enclosure,
        "partner": proposal.partner,
        "notes": proposal.notes,
        "refused": proposal.refused.iter().map(|(disk, why)| json!({ "disk": disk, "why": why })).collect::<Vec<_>>(),
    });
    if setup.dry_run {
        return Ok(Shown { text, json });
    }
    let differs = states.iter().any(|state| matches!(state, State::Differs(_)));
    if differs && !setup.replace {
        return Err(Error::usage(
            format!("{text}files that are there differ; nothing was written"),
            "--replace writes over them; a file that is right stays as it is without it",
        ));
    }
    let changed = states.iter().any(|state| *state != State::Same);
    if changed || facts.clock == Clock::Alone {
        if !setup.yes {
            confirm(&text)?;
        }
        for (file, _) in wanted
            .iter()
            .zip(&states)
            .filter(|(_, state)| **state != State::Same)
        {
            write(file)?;
        }
    }
    Ok(Shown {
        text: format!(
            "{text}{}",
            next(folder, proposal, changed, setup.answers.is_some())
        ),
        json,
    })
}

/// The controller that this machine is already.
fn standing(folder: &Path) -> Result<Option<ControllerConfig>, Error> {
    let file = folder.join(FILE);
    if !file.exists() {
        return Ok(None);
    }
    let config = ControllerConfig::load(&file);
    config.map(Some).map_err(|error| {
        Error::usage(
            error.to_string(),
            "correct the file, or move it away and begin anew",
        )
    })
}

fn read_answers(file: &Path) -> Result<Answers, Error> {
    let text = fs::read_to_string(file)
        .map_err(|error| {
            Error::usage(
                format!("the answers cannot be read: {}: {error}", file.display()),
                "--answers names a file of answers that stands there: the first controller writes it for the second and \
                 says where; without it, everything is asked",
            )
        })?;
    toml::from_str(&text).map_err(|error| {
        Error::usage(
            format!("{}: {error}", file.display()),
            "keys as `pollux setup --dry-run` shows them",
        )
    })
}

async fn look(sysfs: &Path) -> Result<Facts, Error> {
    let failed = |what: String| Error::failed(what, "run it as root on the controller itself");
    let disks = facts::disks(sysfs).map_err(failed)?;
    let nics = facts::nics(sysfs).await.map_err(failed)?;
    let watchdog = PathBuf::from("/dev/watchdog");
    Ok(Facts {
        disks,
        nics,
        watchdog: watchdog.exists().then_some(watchdog),
        clock: Clock::look().await,
    })
}

fn refused(problems: &[Problem]) -> Error {
    let mut text = "this machine cannot be a controller yet".to_owned();
    for Problem { what, remedy } in problems {
        let _ = write!(text, "\n  {what}\n    right would be: {remedy}");
    }
    Error::failed(text, "correct this and begin again; nothing was written")
}

fn unanswered(questions: &[Question]) -> Error {
    let mut text = "not everything follows from what is here".to_owned();
    for Question {
        key,
        text: asked,
        choices,
    } in questions
    {
        let _ = write!(text, "\n  {key}: {asked}");
        if !choices.is_empty() {
            let _ = write!(text, " {}", choices.join(", "));
        }
    }
    Error::usage(
        text,
        "--answers FILE with these keys, or answer at a terminal without --yes",
    )
}

/// Asks until the answer is one.
fn ask(question: &Question, answers: &mut Answers) -> Result<(), Error> {
    loop {
        let mut out = io::stderr();
        let choices = match &question.choices[..] {
            [] => String::new(),
            choices => format!(" [{}]", choices.join(", ")),
        };
        // If nobody can read the question, nobody can answer it.
        let asked = write!(out, "{}{choices} ", question.text).and_then(|()| out.flush());
        let mut line = String::new();
        let read = asked.and_then(|()| io::stdin().lock().read_line(&mut line));
        if !matches!(read, Ok(1..)) {
            return Err(unanswered(std::slice::from_ref(question)));
        }
        let word = line.trim();
        let fits = question.choices.is_empty() || question.choices.iter().any(|choice| choice == word);
        match fits.then(|| answers.set(question.key, word)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(right)) => drop(writeln!(out, "{right}")),
            None => drop(writeln!(out, "one of {}", question.choices.join(", "))),
        }
    }
}

/// What it will be, on one screen.
fn render(proposal: &Proposal, facts: &Facts, wanted: &[Wanted], states: &[State], whole: bool) -> String {
    let Proposal { controller, .. } = proposal;
    let (wire, front) = (&controller.interconnect, &controller.front);
    let mut text = format!(
        "controller {} of array {}\n  wire     {} of {}: {}, partner {}\n  hosts    {}: {}/{}, port {}\n",
        controller.controller,
        controller.array,
        wire.interface,
        wire.legs.join(", "),
        wire.local,
        wire.partner,
        front.interface,
        front.address,
        front.prefix,
        front.portal_port
    );
    let mut rows = vec![];
    for disk in &proposal.enclosure.disk {
        let found = facts
            .disks
            .iter()
            .find(|found| found.wwn.as_ref() == Some(&disk.wwn));
        let index = DiskIndex::new(disk.slot);
        rows.push(vec![
            index.to_string(),
            disk.wwn.clone(),
            found.map_or_else(String::new, |found| size(found.bytes)),
            found.map_or_else(String::new, |found| found.model.clone()),
            if controller.quorum.disks.contains(&index) {
                "quorum"
            } else {
                ""
            }
            .to_owned(),
        ]);
    }
    text += &table(&["slot", "wwn", "size", "model", "also"], &rows);
    for (disk, why) in &proposal.refused {
        let _ = writeln!(text, "not taken: {disk}: {why}");
    }
    for note in &proposal.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for (file, state) in wanted.iter().zip(states) {
        let path = file.path.display();
        let _ = match state {
            State::New => writeln!(text, "{path}: new"),
            State::Same => writeln!(text, "{path}: stays as it is"),
            State::Differs(lines) => write!(text, "{path} differs:\n{lines}"),
        };
        if whole {
            for line in file.text.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    text
}

fn write(file: &Wanted) -> Result<(), Error> {
    let folder = file.path.parent().unwrap_or(Path::new("/"));
    let written = fs::create_dir_all(folder)
        .and_then(|()| pollux_platform::file::replace(&file.path, file.text.as_bytes(), 0o644));
    written.map_err(|error| {
        Error::failed(
            format!("cannot write {}: {error}", file.path.display()),
            "run it as root; files named before this one are written",
        )
    })
}

/// What a person does next.
fn next(folder: &Path, proposal: &Proposal, changed: bool, second: bool) -> String {
    if !changed {
        return "everything is as it should be; nothing was written\n".into();
    }
    let partner = proposal.controller.controller.partner();
    let first = if second {
        format!(
            "  1. on {partner}: pollux pair show\n  2. here: pollux pair enter, and the code that {partner} shows\n"
        )
    } else {
        format!(
            "  1. copy {} to {partner}; there: pollux setup --answers partner.toml\n\
             \x20 2. here: pollux pair show; on {partner}: pollux pair enter, and the code\n",
            folder.join(files::PARTNER).display()
        )
    };
    format!(
        "written. Next:\n{first}\
         \x20 3. once in the life of the array, on one of the two: systemctl start enclosured && pollux quorum format\n\
         \x20 4. on both: systemctl start pollux.target\n\
         and, for the disks: udevadm control --reload && udevadm trigger --subsystem-match=block\n"
    )
}
