//! Commands in a machine, over the interface that leads to nobody but the lab.
//!
//! A handshake costs an emulated processor seconds, so one connection is made per boot and every command goes through it.
//! Every command has a bound: a machine that hangs answers nobody.

use crate::error::{Error, Result};
use crate::programs::{self, SCP, SSH, last_lines};
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The way into one machine.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// Port of the loopback that leads to the machine's sshd.
    port: u16,
    key: PathBuf,
    /// Socket of the connection through which commands go.
    control: PathBuf,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ssh {
    /// The way through `port` with `key`; `folder` holds its connection.
    #[must_use]
    pub fn new(port: u16, key: &Path, folder: &Path) -> Self {
        Self {
            port,
            key: key.to_owned(),
            control: folder.join("ssh.sock"),
        }
    }

    /// The machine's sshd has said its first line.
    ///
    /// # Errors
    /// What was there instead.
    pub fn greets(&self) -> std::result::Result<(), String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream =
            TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(|e| e.to_string())?;
        // QEMU takes the connection before there is anybody behind it.
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .map_err(|e| e.to_string())?;
        let mut greeting = [0; 8];
        let length = stream
            .read(&mut greeting)
            .map_err(|e| format!("no greeting: {e}"))?;
        if greeting[..length].starts_with(b"SSH-") {
            Ok(())
        } else {
            Err("closed without a greeting".into())
        }
    }

    fn command(&self, program: programs::Program) -> Result<Command> {
        let mut command = program.command()?;
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=60",
            "ServerAliveInterval=10",
            "ServerAliveCountMax=6",
            // The machine was made a moment ago; nobody could have known its key.
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            // Neither this machine's own configuration nor the costliest exchange of keys.
            "KexAlgorithms=curve25519-sha256",
            "IdentitiesOnly=yes",
        ] {
            command.args(["-o", option]);
        }
        command
            .args(["-F", "none", "-i"])
            .arg(&self.key)
            .arg("-o")
            .arg(format!("ControlPath={}", self.control.display()))
            .arg(if program.name == SSH.name { "-p" } else { "-P" })
            .arg(self.port.to_string());
        Ok(command)
    }

    /// Makes the connection through which all commands go; one that is there stays.
    ///
    /// # Errors
    /// sshd refuses, or does not answer.
    pub fn connect(&self, bound: Duration) -> Result<()> {
        if self.control.exists() {
            let mut check = self.command(SSH)?;
            check.args(["-O", "check", "root@127.0.0.1"]);
            if check.output().is_ok_and(|output| output.status.success()) {
                return Ok(());
            }
            let _ = std::fs::remove_file(&self.control);
        }
        let mut command = self.command(SSH)?;
        // It goes into the background once it is connected, and ends with the machine.
        command
            .args(["-M", "-N", "-f", "-o", "ControlPersist=yes", "root@127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| Error::step("start ssh", error))?;
        let status = end_of(&mut child, bound).map_err(|error| Error::step("connect by ssh", error))?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Error::step("connect by ssh", status)),
            None => Err(Error::step(
                "connect by ssh",
                format!("nothing after {} s", bound.as_secs()),
            )),
        }
    }

    /// Ends the connection, if there is one: what it leads to may be gone without a word.
    pub fn forget(&self) {
        if !self.control.exists() {
            return;
        }
        if let Ok(mut exit) = self.command(SSH) {
            let _ = exit.args(["-O", "exit", "root@127.0.0.1"]).output();
        }
        let _ = std::fs::remove_file(&self.control);
    }

    /// A command in the machine's shell whose ends the caller holds.
    ///
    /// # Errors
    /// ssh is not here.
    pub fn prepared(&self, script: &str) -> Result<Command> {
        let mut command = self.command(SSH)?;
        command.args(["-o", "ControlMaster=no", "root@127.0.0.1", script]);
        Ok(command)
    }

    /// Runs a command at a terminal of the machine, where these lines are typed. A terminal makes one of what the command writes
    /// to either end, and of what was typed.
    ///
    /// # Errors
    /// As [`Ssh::try_run`].
    pub fn typed(&self, script: &str, lines: &[&str], bound: Duration) -> Result<Said> {
        let mut command = self.command(SSH)?;
        command.args(["-tt", "-o", "ControlMaster=no", "root@127.0.0.1", script]);
        command.stdin(Stdio::piped());
        let what = |error| Error::step(script, error);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(what)?;
        // It stays open: a terminal that is closed ends what runs at it.
        let keyboard = child.stdin.take();
        if let Some(mut keyboard) = keyboard.as_ref() {
            for line in lines {
                writeln!(keyboard, "{line}").map_err(what)?;
            }
        }
        said(child, script, bound)
    }

    /// A terminal in the machine.
    ///
    /// # Errors
    /// ssh is not here, or ends badly.
    pub fn terminal(&self) -> Result<ExitStatus> {
        let mut command = self.command(SSH)?;
        command.arg("root@127.0.0.1").stdin(Stdio::inherit());
        command.status().map_err(|error| Error::step("start ssh", error))
    }

    /// Runs a script in the machine's shell, whatever it says.
    ///
    /// # Errors
    /// It does not end within `bound`, or the machine cannot be reached.
    pub fn try_run(&self, script: &str, bound: Duration) -> Result<Said> {
        let mut command = self.prepared(script)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| Error::step("start ssh", error))?;
        said(child, script, bound)
    }

    /// Runs a script that must end well; returns what it wrote.
    ///
    /// # Errors
    /// It ends with anything but 0; then its last lines are the reason.
    pub fn run(&self, script: &str, bound: Duration) -> Result<String> {
        let said = self.try_run(script, bound)?;
        if said.status.success() {
            return Ok(said.out);
        }
        let text = last_lines(&(said.out + &said.err), 12);
        Err(Error::step(script, format!("{}: {text}", said.status)))
    }

    /// Copies files of this machine into a folder of the other one.
    ///
    /// # Errors
    /// scp fails.
    pub fn copy_in(&self, files: &[PathBuf], to: &str) -> Result<()> {
        let mut command = self.command(SCP)?;
        command.arg("-q").args(files).arg(format!("root@127.0.0.1:{to}"));
        programs::run("copy into a machine", &mut command).map(drop)
    }
}

/// What a command says until it ends.
fn said(mut child: Child, script: &str, bound: Duration) -> Result<Said> {
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let status = end_of(&mut child, bound).map_err(|error| Error::step(script, error))?;
    let text = |pipe: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&pipe.join().unwrap_or_default()).into_owned()
    };
    let (out, err) = (text(out), text(err));
    match status {
        // What ssh ends with when it is not the command that failed.
        Some(status) if status.code() == Some(255) => {
            Err(Error::step(script, format!("ssh: {}", err.trim())))
        }
        Some(status) => Ok(Said { status, out, err }),
        None => Err(Error::step(
            script,
            format!(
                "no end after {} s: {}",
                bound.as_secs(),
                last_lines(&(out + &err), 6)
            ),
        )),
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = vec![];
        if let Some(mut pipe) = pipe {
            // What came until it broke is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits until a child ends; kills it after `bound`.
fn end_of(child: &mut Child, bound: Duration) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= bound {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
