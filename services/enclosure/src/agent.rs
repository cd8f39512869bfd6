//! The partner's power, through a fence agent: a program that knows one kind of power control and speaks like all of its kind
//! (the API of fence-agents: `name=value` lines on standard input, `Status: ON` or `OFF`, exit code 0 or 2 for the status).
//!
//! An agent is asked, never believed: `off` counts when its *status*, asked afterwards, says off. One runs at a time, and what
//! was begun is brought to its end even when nobody waits for it any more; who comes meanwhile and wants the same is
//! answered with what was confirmed after it had asked.
//!
//! The password is read from its file for each run and goes to standard input, never to a command line, the environment or
//! the journal.

use crate::config::Bmc;
use pollux_api::chassis::PowerState;
use pollux_platform::program::Program;
use std::os::unix::fs::MetadataExt;
use std::process::Output;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Pause between two questions whether the power has gone where it was sent.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The power control of the partner.
#[derive(Debug)]
pub(crate) struct Agent {
    config: Bmc,
    turn: Mutex<Option<(Instant, PowerState)>>,
}

impl Agent {
    pub(crate) fn new(config: Bmc) -> Self {
        Agent {
            config,
            turn: Mutex::new(None),
        }
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.config.deadline_s)
    }

    /// The power now.
    ///
    /// # Errors
    /// In words; nothing is known then.
    pub(crate) async fn status(&self) -> Result<PowerState, String> {
        let _turn = self.turn.lock().await;
        self.ask().await
    }

    /// Sends the power where it is wanted; answers when the agent's status says that it is there.
    ///
    /// # Errors
    /// In words; where the power is, is not known then.
    pub(crate) async fn switch(&self, wanted: PowerState) -> Result<(), String> {
        let asked = Instant::now();
        let mut turn = self.turn.lock().await;
        if turn.is_some_and(|(at, state)| at >= asked && state == wanted) {
            return Ok(());
        }
        let action = match wanted {
            PowerState::Off => "off",
            PowerState::On => "on",
            PowerState::Changing => return Err("there is no such state to switch to".to_owned()),
        };
        let until = asked.max(Instant::now()) + self.deadline();
        let output = self.run(action).await?;
        if !output.status.success() {
            return Err(self.complain(action, &output));
        }
        loop {
            // Asked before the question: an answer is as old as the question, not as its arrival.
            let at = Instant::now();
            let state = self.ask().await?;
            if state == wanted {
                *turn = Some((at, state));
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(format!(
                    "{action} was done, says the agent, and the status is {state:?} still"
                ));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn ask(&self) -> Result<PowerState, String> {
        let output = self.run("status").await?;
        read_status(output.status.code(), &output.stdout).ok_or_else(|| self.complain("status", &output))
    }

    /// What an agent has said that is no answer.
    fn complain(&self, action: &str, output: &Output) -> String {
        let said = [&output.stderr[..], &output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        let line = telling(&said);
        // An agent that talks much repeats what it was told.
        let secret = self.password().ok().flatten();
        let line = match secret.filter(|secret| !secret.is_empty()) {
            Some(secret) => line.replace(&secret, "(password)"),
            None => line,
        };
        format!(
            "{} {action}: {}, and said: {line}",
            self.config.agent.display(),
            output.status
        )
    }

    fn password(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.config.password_file else {
            return Ok(None);
        };
        let wrong = |what: String| format!("{}: {what}", file.display());
        let mode = std::fs::metadata(file)
            .map_err(|error| wrong(error.to_string()))?
            .mode();
        if mode & 0o077 != 0 {
            return Err(wrong(format!(
                "others may read it (mode {:o}); 600 is right",
                mode & 0o777
            )));
        }
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    async fn run(&self, action: &str) -> Result<Output, String> {
        let mut lines = format!("action={action}\n");
        for (name, value) in &self.config.arguments {
            lines += &format!("{name}={value}\n");
        }
        if let Some(password) = self.password()? {
            lines += &format!("password={password}\n");
        }
        let program = Program::fence_agent(&self.config.agent, self.deadline());
        let output = program.run(&[], lines.as_bytes()).await;
        output.map_err(|error| format!("{action}: {error}"))
    }
}

/// What of it tells why: the lines that speak of a failure, without the warnings of the language that an agent is written in;
/// else the last one.
fn telling(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let failure = |line: &&str| {
        let line = line.to_ascii_lowercase();
        let speaks = [
            "error",
            "fail",
            "unable",
            "invalid",
            "denied",
            "unauthorized",
            "password",
        ];
        !line.contains("warning")
            && !line.contains("executing:")
            && speaks.iter().any(|word| line.contains(word))
    };
    let mut told: Vec<&str> = lines().filter(failure).collect();
    told.dedup();
    if told.is_empty() {
        return lines().next_back().unwrap_or("nothing").to_owned();
    }
    told.join("; ").chars().take(300).collect()
}

/// What `status` has said: exit code and words must say the same.
fn read_status(code: Option<i32>, said: &[u8]) -> Option<PowerState> {
    let said = String::from_utf8_lossy(said);
    let mut words = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Status:"));
    match (code, words.next()?.trim(), words.next()) {
        (Some(0), "ON", None) => Some(PowerState::On),
        (Some(2), "OFF", None) => Some(PowerState::Off),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn a_status_is_what_code_and_words_agree_on() {
        for (code, said, state) in [
            (Some(0), "Status: ON\n", Some(PowerState::On)),
            (Some(2), "Status: OFF\n", Some(PowerState::Off)),
            (Some(2), "2026-11-30 INFO: x\nStatus: OFF", Some(PowerState::Off)),
            (Some(0), "Status: OFF\n", None),
            (Some(2), "Status: ON\n", None),
            (Some(1), "Status: OFF\n", None),
            (None, "Status: OFF\n", None),
            (Some(0), "Status: ON\nStatus: OFF\n", None),
            (Some(2), "Status: OFFLINE\n", None),
            (Some(0), "", None),
        ] {
            assert_eq!(read_status(code, said.as_bytes()), state, "{code:?} {said:?}");
        }
    }

    #[test]
    fn what_tells_why_is_found_in_what_an_agent_says() {
        let said = "/usr/sbin/fence_ipmilan:5: DeprecationWarning: 'pipes' is deprecated\n  from pipes import quote\n\
                    2026-11-30 20:27:30 INFO: Executing: ipmitool -P [set]\n\n\
                    2026-11-30 20:27:30 DEBUG: 1  Error: Unable to establish IPMI v2 / RMCP+ session\n\n\
                    2026-11-30 20:27:30 ERROR: Failed: Unable to obtain correct plug status\n\n";
        let told = telling(said);
        assert!(
            told.contains("RMCP+ session; 2026") && told.ends_with("plug status"),
            "{told}"
        );
        assert!(
            !told.contains("Deprecation") && !told.contains("Executing"),
            "{told}"
        );
        assert_eq!(telling("one\ntwo\n\n"), "two");
        assert_eq!(telling("\n"), "nothing");
    }

    /// An agent that keeps its partner's power in a file, and writes down how it was run.
    pub(crate) fn write_agent(dir: &Path, body: &str) -> Bmc {
        let agent = dir.join("fence_fake");
        let text = format!(
            "#!/bin/sh\ncd {dir}\necho \"$# $*\" >> arguments\nwhile IFS== read -r name value; do\n  \
             echo \"$name=$value\" >> told\n  [ \"$name\" = action ] && action=$value\ndone\n\
             say() {{ if [ \"$(cat power)\" = on ]; then echo 'Status: ON'; exit 0; else echo 'Status: OFF'; exit 2; fi; }}\n\
             {body}\n",
            dir = dir.display()
        );
        std::fs::write(&agent, text).unwrap();
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
        let password = dir.join("password");
        std::fs::write(&password, "s3cret\n").unwrap();
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(dir.join("power"), "on").unwrap();
        Bmc {
            agent,
            arguments: [("ip".to_owned(), "192.0.2.7".to_owned())].into(),
            password_file: Some(password),
            deadline_s: 30,
        }
    }

    pub(crate) const OBEYS: &str =
        "case $action in status) say;; on|off) echo $action >> done; printf %s $action > power;; esac";

    #[tokio::test]
    async fn off_is_what_the_status_confirms() {
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::new(write_agent(dir.path(), OBEYS));
        assert_eq!(agent.status().await, Ok(PowerState::On));
        agent.switch(PowerState::Off).await.unwrap();
        assert_eq!(agent.status().await, Ok(PowerState::Off));
        agent.switch(PowerState::On).await.unwrap();
        assert_eq!(agent.status().await, Ok(PowerState::On));
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(
            read("told").contains("ip=192.0.2.7\npassword=s3cret\n"),
            "{}",
            read("told")
        );
        assert!(
            read("arguments").lines().all(|line| line.trim() == "0"),
            "nothing on the command line"
        );
    }

    #[tokio::test]
    async fn an_agent_that_lies_fails_or_hangs_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for (body, words) in [
            ("case $action in status) say;; *) exit 0;; esac", "On still"),
            (
                "echo \"login with s3cret failed\" >&2; exit 1",
                "login with (password) failed",
            ),
            (
                "case $action in status) exit 2;; *) exit 0;; esac",
                "said: nothing",
            ),
            ("exec sleep 600", "no end within 1 s"),
        ] {
            let config = Bmc {
                deadline_s: 1,
                ..write_agent(dir.path(), body)
            };
            let refusal = Agent::new(config).switch(PowerState::Off).await.unwrap_err();
            assert!(
                refusal.contains(words) && !refusal.contains("s3cret"),
                "{words}: {refusal}"
            );
        }
        let mut absent = write_agent(dir.path(), OBEYS);
        absent.agent = dir.path().join("absent");
        let refusal = Agent::new(absent).status().await.unwrap_err();
        assert!(refusal.contains("cannot be run"), "{refusal}");
        let open = write_agent(dir.path(), OBEYS);
        std::fs::set_permissions(
            dir.path().join("password"),
            std::fs::Permissions::from_mode(0o644),
        )
        .unwrap();
        let refusal = Agent::new(open).status().await.unwrap_err();
        assert!(refusal.contains("600"), "{refusal}");
    }

    #[tokio::test]
    async fn who_asks_while_it_is_done_is_answered_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let agent = Arc::new(Agent::new(write_agent(dir.path(), OBEYS)));
        let ask = |agent: Arc<Agent>| tokio::spawn(async move { agent.switch(PowerState::Off).await });
        let tasks: Vec<_> = (0..4).map(|_| ask(agent.clone())).collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let done = std::fs::read_to_string(dir.path().join("done")).unwrap();
        assert_eq!(done, "off\n", "once for all of them");
        agent.switch(PowerState::Off).await.unwrap();
        let done = std::fs::read_to_string(dir.path().join("done")).unwrap();
        assert_eq!(done, "off\noff\n", "and again for whoever asks afterwards");
    }
}
