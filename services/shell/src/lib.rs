//! `pollux`: the front panel of the array, as words.
//!
//! It holds nothing and decides nothing: it asks the routers of the controllers, and prints what they say, whose view
//! it is, and what they could not say.
//!
//! * [`cli`]: the words; [`array`]: whom to ask; [`print`]: tables, bars, sizes, times.
//! * [`status`], [`timeline`], [`trace`], [`resources`], [`configuration`], [`moves`], [`quorum`], [`space`], [`token`],
//!   [`disk`], [`enclosure`]: one file per group of commands; [`words`]: completions and manual pages of the words.
//! * [`shutdown`]: controllers go down in good order; [`machine`]: and their machines; `news`: when to look again.
//! * [`setup`]: how a machine becomes a controller; [`owner`]: as whom a command writes among the daemons'
//!   files; [`disarm`]: the watchdog of a controller that was stopped.
//!
//! Rules: what is unknown is printed as unknown, never left out; where the controllers disagree both views are printed;
//! a refusal is printed with its remedy; a change prints its action_id. It must never guess, and never ask twice for
//! a change under two action_ids.

#![forbid(unsafe_code)]

pub mod action;
pub mod array;
mod backup;
pub mod cli;
pub mod configuration;
pub mod disarm;
pub mod disk;
pub mod enclosure;
pub mod error;
mod item;
pub mod machine;
pub mod moves;
mod news;
pub mod owner;
pub mod pair;
pub mod print;
pub mod quorum;
pub mod resources;
pub mod setup;
pub mod shutdown;
pub mod space;
pub mod status;
pub mod timeline;
pub mod token;
pub mod trace;
pub mod words;
