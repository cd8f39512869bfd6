//! What others make of the words that `pollux` reads: completions of shells, manual pages.
//!
//! Both come from [`Line`], as the help does, so none of them can say what the command does not.

use crate::cli::Line;
use crate::error::Error;
use crate::resources::Shown;
use clap::CommandFactory;
use serde_json::json;
use std::path::Path;

/// The script that makes a shell complete the words.
#[must_use]
pub fn completion(shell: clap_complete::Shell) -> Shown {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Line::command(), "pollux", &mut script);
    let text = String::from_utf8_lossy(&script).into_owned();
    Shown {
        json: json!({ "shell": shell.to_string(), "script": text }),
        text,
    }
}

/// Writes `pollux.1`, `pollux-status.1` and so on: one manual page for each command that is shown.
///
/// # Errors
/// A file cannot be written.
pub fn manual(folder: &Path) -> Result<Shown, Error> {
    let failed = |error: std::io::Error| {
        Error::failed(
            format!("cannot write manual pages into {}: {error}", folder.display()),
            "a folder that is yours",
        )
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Line::command(), folder).map_err(failed)?;
    Ok(Shown {
        text: String::new(),
        json: json!({ "folder": folder }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_a_completion() {
        let folder = tempfile::tempdir().unwrap();
        manual(folder.path()).unwrap();
        let mut commands = vec![];
        for command in Line::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            commands.push(command.get_name().to_owned());
        }
        assert!(commands.contains(&"switchover".to_owned()), "{commands:?}");
        for shell in [
            clap_complete::Shell::Bash,
            clap_complete::Shell::Zsh,
            clap_complete::Shell::Fish,
        ] {
            let script = completion(shell).text;
            for command in &commands {
                assert!(script.contains(command.as_str()), "{shell}: {command}");
            }
        }
        for command in commands {
            let page = folder.path().join(format!("pollux-{command}.1"));
            let text =
                std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
            assert!(text.contains(&command), "{command}: {text}");
        }
    }
}
