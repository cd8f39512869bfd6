//! A keeper's process and its pipes.

use crate::wire::{Order, Word};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

/// What comes out of a process: whose, of which life, and what; nothing: it has ended.
pub(crate) type Heard = (usize, u64, Option<Word>);

/// How a process is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Birth {
    pub(crate) seed: u64,
    pub(crate) early: bool,
    pub(crate) lies: bool,
    /// Entries of the log that it keeps; none: as many as on an array.
    pub(crate) keep: Option<u64>,
    /// Where it dies, and when.
    pub(crate) fate: Option<(String, u64)>,
}

/// One life of a keeper. Dropped, it is killed and reaped.
pub(crate) struct Life {
    pub(crate) number: u64,
    process: Child,
    orders: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
}

impl Life {
    pub(crate) fn begin(
        program: &Path,
        folder: &Path,
        at: usize,
        number: u64,
        birth: &Birth,
        heard: Sender<Heard>,
    ) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command
            .args(["keeper", "--side", ["a", "b"][at], "--folder"])
            .arg(folder)
            .args(["--seed", &birth.seed.to_string()])
            .args(birth.early.then_some("--early"))
            .args(birth.lies.then_some("--lies"))
            .args(birth.keep.map(|keep| format!("--keep={keep}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some((place, nth)) = &birth.fate {
            command.args(["--place", place, "--nth", &nth.to_string()]);
        }
        let mut process = command.spawn()?;
        let orders = process.stdin.take();
        let words = process.stdout.take();
        let reader = std::thread::spawn(move || {
            let lines = words.into_iter().flat_map(|words| BufReader::new(words).lines());
            for line in lines.map_while(Result::ok) {
                // Its last line may be cut off by its death.
                let Ok(word) = serde_json::from_str(&line) else {
                    break;
                };
                if heard.send((at, number, Some(word))).is_err() {
                    return;
                }
            }
            let _ = heard.send((at, number, None));
        });
        Ok(Self {
            number,
            process,
            orders,
            reader: Some(reader),
        })
    }

    /// An order to one who has died is lost; that he has died comes out of his other pipe.
    pub(crate) fn order(&mut self, order: &Order) {
        let mut line = serde_json::to_string(order).expect("orders are plain data");
        line.push('\n');
        if let Some(orders) = &mut self.orders {
            let _ = orders.write_all(line.as_bytes());
        }
    }

    pub(crate) fn kill(&mut self) {
        // One that has ended already needs no killing.
        let _ = self.process.kill();
    }

    /// Lets it end in order; false: it did not end well.
    pub(crate) fn end(mut self) -> bool {
        drop(self.orders.take());
        let well = self.process.wait().is_ok_and(|status| status.success());
        self.join();
        well
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            // It panics only over a defect, which its own message has named.
            let _ = reader.join();
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.kill();
        let _ = self.process.wait();
        self.join();
    }
}
