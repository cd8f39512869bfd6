//! `cargo lab`: see the library.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use pollux_lab::error::{Error, Result};
use pollux_lab::lab::Lab;
use pollux_lab::topology::Node;
use pollux_lab::{image, switch};
use std::path::PathBuf;
use std::process::ExitCode;

/// Virtual machines that prove the appliance. Exit codes: 0 all is well, 1 something failed, 2 wrong argument.
#[derive(Debug, Parser)]
#[command(name = "cargo lab")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Switch the lab on: two controllers, a host and a shelf.
    Up {
        /// Only these: a, b, host.
        #[arg(value_parser = node)]
        nodes: Vec<Node>,
    },
    /// A command in a machine, or a terminal.
    Ssh {
        /// a, b or host.
        #[arg(value_parser = node)]
        node: Node,
        /// The command; without one a terminal.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Fetch and make what takes long, QEMU and the image, and nothing else.
    Make,
    /// Switch it off.
    Down,
    /// Carries frames between machines; started by `up`.
    #[command(hide = true)]
    Switch {
        /// Where their sockets are.
        folder: PathBuf,
    },
    /// Works inside the making of the image; started by `up`.
    #[command(hide = true)]
    ImageHook {
        /// The system that is made.
        root: PathBuf,
        /// Where kernel and first file system go.
        folder: PathBuf,
    },
}

fn node(text: &str) -> std::result::Result<Node, String> {
    Node::named(text).ok_or_else(|| format!("`{text}` is no machine of the lab: a, b or host"))
}

fn main() -> ExitCode {
    match run(Arguments::parse().what) {
        Ok(code) => code,
        Err(error @ Error::Missing(_)) => {
            println!("SKIPPED: {error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Result<ExitCode> {
    match what {
        What::Up { nodes } => {
            let nodes = if nodes.is_empty() { Node::ALL.to_vec() } else { nodes };
            Lab::find()?.up(&nodes)?;
        }
        What::Ssh { node, command } => {
            let machine = Lab::find()?.machine(node)?;
            if command.is_empty() {
                machine.ssh().terminal()?;
            } else {
                let said = machine.try_run(&command.join(" "), pollux_lab::machine::LOOK)?;
                print!("{}", said.out);
                eprint!("{}", said.err);
                if !said.status.success() {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        What::Make => Lab::find()?.make()?,
        What::Down => Lab::find()?.down()?,
        What::Switch { folder } => switch::run(&folder)?,
        What::ImageHook { root, folder } => image::hook(&root, &folder)?,
    }
    Ok(ExitCode::SUCCESS)
}
