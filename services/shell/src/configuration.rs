//! `pollux config`: the configuration as a whole, and its history.
//!
//! Import and rollback go the same way: the array as it is, the document as it should be, the steps between them
//! ([`pollux_config_document`]), a dry run by the keeper, the difference before the eyes of the operator, and one
//! change that is refused if the configuration has changed meanwhile. Only what stands on a pool that is made has to wait
//! for the pool, and follows in a second change.

use crate::array::{Array, BOTH, CHANGE, QUESTION};
use crate::backup;
use crate::cli::{Bring, Config};
use crate::error::Error;
use crate::moves::confirm;
use crate::print::{Style, span_ms, wrap};
use crate::resources::{Shown, change_from, listing, pool_name, wait_ready, word};
use crate::status::{Known, latest};
use pollux_api::action::ActionId;
use pollux_api::config::{
    self, Change, Changed, Kind, LogEntry, LogQuery, Op, Resource, Snapshot, Tables, Verified,
};
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::size::Size;
use pollux_config_document::{Difference, Document, Steps, differences, name_of, steps};
use pollux_runtime::Ctx;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Longest document that is read.
const DOCUMENT_MAX: u64 = 64 << 20;

/// `pollux config`
///
/// # Errors
/// The config keeper cannot be asked.
pub async fn config(
    array: &Array,
    command: Config,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    match command {
        Config::Show => {
            let (snapshot, mut text) = latest(array).await?;
            for kind in Kind::ALL {
                let rows = snapshot.tables.of_kind(kind);
                if kind.is_item() && rows.is_empty() {
                    continue;
                }
                let _ = writeln!(
                    text,
                    "{}\n{}",
                    style.bold(kind.as_str()),
                    listing(&snapshot, kind, &rows)
                );
            }
            Ok(Shown::new(text, &snapshot))
        }
        Config::History { after, limit } => history(array, after, limit, style).await,
        Config::Diff { from, to } => {
            let (mut log, last) = Log::of(array).await?;
            let to = to.unwrap_or(last);
            let before = log.at(from)?;
            // Backwards is forwards with the signs changed: the log is read once.
            let after = if to < from {
                Log::of(array).await?.0.at(to)?
            } else {
                log.at(to)?
            };
            let found = differences(&before, &after);
            let mut text = difference_text(&before, &after, &found, style);
            if found.is_empty() {
                text = format!("no difference between {from} and {to}\n");
            }
            Ok(Shown {
                text,
                json: json!({ "from": from, "to": to, "differences": found }),
            })
        }
        Config::Rollback { index, how } => {
            let (mut log, last) = Log::of(array).await?;
            if index >= last {
                let what = format!("the last change is {last}: there is nothing to go back from to {index}");
                return Err(Error::usage(what, "a lower index: pollux config history"));
            }
            let mut wanted = Document::of(&log.at(index)?);
            let kept = keep_sizes(&log.at(last)?, &mut wanted);
            let name = format!("index {index}");
            let mut shown = bring_about(array, &wanted, &name, how, action, style).await?;
            shown.text += &kept;
            Ok(shown)
        }
        Config::Export { file } => {
            let (snapshot, remark) = latest(array).await?;
            let remark = if remark.is_empty() {
                remark
            } else {
                format!("# {remark}")
            };
            let text = remark + &export_text(&snapshot)?;
            let json = json!({ "as_of": snapshot.as_of, "hash": snapshot.hash, "document": text });
            match file {
                None => Ok(Shown { text, json }),
                Some(file) => {
                    pollux_platform::file::replace(&file, text.as_bytes(), 0o600).map_err(|error| {
                        Error::failed(
                            format!("{}: {error}", file.display()),
                            "a file that can be written",
                        )
                    })?;
                    let rows = snapshot.tables.rows().count();
                    let text = format!(
                        "{rows} things as of change {} are in {}\n",
                        snapshot.as_of,
                        file.display()
                    );
                    Ok(Shown { text, json })
                }
            }
        }
        Config::Import { file, how } => {
            let wanted = read_document(&file)?;
            bring_about(array, &wanted, &file.display().to_string(), how, action, style).await
        }
        Config::Backup { file } => backup::backup(array, &file).await,
        Config::Restore { file, how } => backup::restore(array, &file, how, action, style).await,
        Config::List { .. } | Config::Get { .. } | Config::Set { .. } | Config::Delete { .. } => {
            crate::item::run(array, command, action, style).await
        }
        Config::Status => {
            let answers = on_both::<config::Status>(array, config::STATUS).await;
            let mut text = String::new();
            for (id, answer) in &answers {
                let _ = writeln!(text, "{}", style.bold(&format!("controller {id}")));
                match answer {
                    Known::No { unknown } => text += &wrap(&format!("unknown: {unknown}"), 2),
                    Known::Yes(status) => {
                        let _ = writeln!(
                            text,
                            "  durable       {} entries, hash {}",
                            status.length, status.hash
                        );
                        let _ = writeln!(text, "  acknowledged  {} entries", status.acknowledged_length);
                        if status.compacted > 0 {
                            let _ = writeln!(
                                text,
                                "  kept          {} to {}, and what those before amount to",
                                status.compacted + 1,
                                status.length
                            );
                        }
                        let lock = status.locked.as_ref();
                        let lock = lock.map_or_else(
                            || "open for changes".to_owned(),
                            |lock| {
                                format!(
                                    "locked for {}: {} [{}]",
                                    span_ms(lock.for_ms),
                                    lock.reason,
                                    lock.remedy
                                )
                            },
                        );
                        text += &wrap(&lock, 2);
                        if let Some(diverged) = &status.diverged {
                            let line = format!("DIVERGED from the partner at index {}", diverged.index);
                            let _ = writeln!(text, "  {}", style.bad(&line));
                        }
                    }
                }
            }
            Ok(Shown::new(text, &answers))
        }
        // A move, asked of heartbeat: see `moves`.
        Config::Open { .. } => Err(Error::usage(
            "`config open` asks heartbeat",
            "see `pollux config open --help`",
        )),
        Config::Verify => {
            let answers = on_both::<Verified>(array, config::VERIFY).await;
            let mut text = String::new();
            for (id, answer) in &answers {
                match answer {
                    Known::No { unknown } => {
                        text += &wrap(&format!("controller {id}: unknown: {unknown}"), 0)
                    }
                    Known::Yes(Verified {
                        entries,
                        rows,
                        problems,
                    }) if problems.is_empty() => {
                        let _ = writeln!(
                            text,
                            "controller {id}: {entries} entries and {rows} rows are sound"
                        );
                    }
                    Known::Yes(Verified { problems, .. }) => {
                        for problem in problems {
                            text += &wrap(&style.bad(&format!("controller {id}: {problem}")), 0);
                        }
                    }
                }
            }
            Ok(Shown::new(text, &answers))
        }
    }
}

async fn on_both<T: serde::de::DeserializeOwned>(
    array: &Array,
    method: &str,
) -> BTreeMap<ControllerId, Known<T>> {
    let mut answers = BTreeMap::new();
    for id in BOTH {
        answers.insert(id, array.look::<T>(id, method).await.into());
    }
    answers
}

/// How often a log that is shortened while it is read is read from its beginning again.
const READINGS: usize = 8;

/// The log of the array, read from where it begins and folded as far as it was asked for.
pub(crate) struct Log<'a> {
    array: &'a Array,
    /// What it begins with: changes up to there are no longer kept.
    pub(crate) begun: config::Compacted,
    last: u64,
    index: u64,
    tables: Tables,
    /// Not folded yet. Read whole at the beginning: entries may be let go while a person is asked something.
    ahead: std::collections::VecDeque<LogEntry>,
}

impl<'a> Log<'a> {
    /// At its beginning; and the index of the last change that is acknowledged.
    pub(crate) async fn of(array: &'a Array) -> Result<(Self, u64), Error> {
        let mut readings = 1;
        loop {
            match Self::read(array).await {
                // Entries were let go between two questions: what they amount to has to be read anew.
                Err(Error::Refused(error)) if error.kind() == Some(Code::NotFound) && readings < READINGS => {
                    readings += 1;
                }
                read => {
                    let log = read?;
                    let last = log.last;
                    return Ok((log, last));
                }
            }
        }
    }

    async fn read(array: &'a Array) -> Result<Self, Error> {
        let last = latest(array).await?.0.as_of;
        let (begun, tables) = beginning(array).await?;
        let last = last.max(begun.length);
        let mut ahead = std::collections::VecDeque::new();
        let mut after = begun.length;
        while after < last {
            let query = LogQuery { after, limit: 0 };
            let ctx = Ctx::new(QUESTION);
            let piece: Vec<LogEntry> = array.ask(array.here, config::LOG, &query, &ctx).await?;
            let wanted = piece.into_iter().take_while(|entry| entry.index <= last);
            let before = ahead.len();
            ahead.extend(wanted);
            let Some(entry) = ahead.back().filter(|_| ahead.len() > before) else {
                let what = format!("controller {} does not show change {}", array.here, after + 1);
                return Err(Error::failed(what, "ask the other controller: --controller"));
            };
            after = entry.index;
        }
        Ok(Self {
            begun,
            last,
            index: begun.length,
            tables,
            ahead,
            array,
        })
    }

    /// What it amounts to, as far as it was read.
    pub(crate) const fn tables(&self) -> &Tables {
        &self.tables
    }

    pub(crate) fn next(&mut self) -> Result<Option<LogEntry>, Error> {
        if self.index == self.last {
            return Ok(None);
        }
        let entry = self
            .ahead
            .pop_front()
            .filter(|entry| entry.index == self.index + 1);
        let Some(entry) = entry else {
            let what = format!(
                "controller {} does not show change {}",
                self.array.here,
                self.index + 1
            );
            return Err(Error::failed(what, "ask the other controller: --controller"));
        };
        entry.rows.iter().for_each(|row| self.tables.apply(row));
        self.index = entry.index;
        Ok(Some(entry))
    }

    /// What the configuration was after that change.
    pub(crate) fn at(&mut self, index: u64) -> Result<Tables, Error> {
        if index < self.begun.length {
            let what = format!(
                "what was after change {index} is not known any more: the first {} changes are no longer kept, only what they \
                 amount to",
                self.begun.length
            );
            let remedy = format!("an index from {} on, or a backup of that time", self.begun.length);
            return Err(Error::usage(what, remedy));
        }
        if index > self.last {
            let what = format!("there is no change {index}: the last is {}", self.last);
            return Err(Error::usage(
                what,
                "an index that `pollux config history` shows, or 0",
            ));
        }
        while self.index < index {
            self.next()?;
        }
        Ok(self.tables.clone())
    }
}

/// What the log begins with: the changes up to there are no longer kept, only the rows to which they amount.
async fn beginning(array: &Array) -> Result<(config::Compacted, Tables), Error> {
    let mut tables = Tables::default();
    let mut ask = config::Beginning::default();
    loop {
        let ctx = Ctx::new(QUESTION);
        let part: config::CompactedPart = array.ask(array.here, config::COMPACTED, &ask, &ctx).await?;
        if part.after.is_none() {
            // The first, or the first again: more was let go meanwhile.
            tables = Tables::default();
        }
        let hash = part.of.hash;
        let last = part.rows.last().map(Resource::key);
        for row in part.rows {
            tables.apply(&config::RowOp::Put(row));
        }
        match last.filter(|_| part.more) {
            Some(key) => ask.part_after = Some(config::PartAfter { hash, key }),
            None => return Ok((part.of, tables)),
        }
    }
}

async fn history(array: &Array, after: u64, limit: u32, style: Style) -> Result<Shown, Error> {
    let (mut log, last) = Log::of(array).await?;
    let gone = log.begun.length;
    let mut before = log.at(after.min(last).max(gone))?;
    let (mut text, mut entries) = (String::new(), Vec::new());
    if after < gone {
        let _ = writeln!(
            text,
            "the first {gone} changes are no longer kept, only what they amount to"
        );
    }
    while entries.len() < limit as usize {
        let Some(entry) = log.next()? else { break };
        let found = differences(&before, &log.tables);
        let _ = writeln!(
            text,
            "{}  epoch {}, action {}",
            style.bold(&format!("{:>6}", entry.index)),
            entry.epoch,
            entry.action_id
        );
        for line in difference_text(&before, &log.tables, &found, style).lines() {
            let _ = writeln!(text, "        {line}");
        }
        entries.push(entry);
        before.clone_from(&log.tables);
    }
    if entries.is_empty() {
        let _ = writeln!(text, "no change after index {after}");
    }
    let rest = last.saturating_sub(log.index);
    if rest > 0 {
        let _ = writeln!(text, "{rest} more: pollux config history --after {}", log.index);
    }
    Ok(Shown::new(text, &entries))
}

/// What a row says, for people.
fn fields(tables: &Tables, row: &Resource) -> Vec<(String, String)> {
    let fixed = match row {
        Resource::Item(item) => return crate::item::fields(tables, item),
        Resource::Pool(row) => {
            let mut fields = vec![
                ("name", row.name.clone()),
                ("class", word(&row.class)),
                ("home", row.home.to_string()),
                ("redundancy", word(&row.redundancy)),
                (
                    "disks",
                    row.disks
                        .iter()
                        .map(|disk| disk.get().to_string())
                        .collect::<Vec<_>>()
                        .join(","),
                ),
                (
                    "space",
                    row.ready.map_or_else(
                        || "not ready".to_owned(),
                        |space| Size(space.capacity_bytes).to_string(),
                    ),
                ),
            ];
            fields.extend(
                row.backend
                    .map(|backend| ("backend", backend.as_str().to_owned())),
            );
            fields
        }
        Resource::Volume(row) => vec![
            ("name", row.name.clone()),
            ("pool", pool_name(tables, row.pool)),
            ("size", Size(row.size_bytes).to_string()),
        ],
        Resource::Host(row) => vec![("name", row.name.clone()), ("initiators", row.iqns.join(" "))],
        Resource::Mapping(row) => vec![("lun", row.lun.to_string())],
        Resource::Address(row) => vec![
            ("address", row.cidr.clone()),
            ("pool", pool_name(tables, row.pool)),
        ],
    };
    let named = fixed.into_iter();
    named.map(|(field, value)| (field.to_owned(), value)).collect()
}

/// One line for each difference: `+` is there now, `-` was, `~` is otherwise.
pub(crate) fn difference_text(before: &Tables, after: &Tables, found: &[Difference], style: Style) -> String {
    let mut text = String::new();
    for one in found {
        let (sign, details) = match (&one.before, &one.after) {
            (Some(was), Some(is)) => {
                let (was, is) = (fields(before, was), fields(after, is));
                let value = |list: &[(String, String)], field: &str| {
                    let found = list.iter().find(|(name, _)| name == field);
                    found.map_or_else(|| "(default)".to_owned(), |(_, value)| value.clone())
                };
                let only_before = was
                    .iter()
                    .filter(|(field, _)| is.iter().all(|(other, _)| other != field));
                let all = is.iter().chain(only_before).map(|(field, _)| field.as_str());
                let changed = all
                    .map(|field| (field, value(&was, field), value(&is, field)))
                    .filter(|(_, was, is)| was != is)
                    .map(|(field, was, is)| format!("{field} {was} -> {is}"));
                ('~', changed.collect::<Vec<_>>())
            }
            (None, Some(row)) => ('+', said(after, row)),
            (Some(row), None) => ('-', said(before, row)),
            (None, None) => continue,
        };
        let line = format!("{sign} {} {}", one.kind.as_str(), one.name);
        let line = match sign {
            '-' => style.bad(&line),
            _ => style.bold(&line),
        };
        let _ = writeln!(text, "{line}  {}", details.join(", "));
    }
    text
}

fn said(tables: &Tables, row: &Resource) -> Vec<String> {
    let name = name_of(tables, row);
    fields(tables, row)
        .into_iter()
        .filter(|(_, value)| *value != name)
        .map(|(field, value)| format!("{field} {value}"))
        .collect()
}

fn export_text(snapshot: &Snapshot) -> Result<String, Error> {
    let document = toml::to_string(&Document::of(&snapshot.tables)).map_err(|error| {
        Error::failed(
            format!("the configuration cannot be written: {error}"),
            "report this",
        )
    })?;
    Ok(format!(
        "# Configuration of the array as of change {}, as controller {} has it.\n\
         # Edit it and import it: `pollux config import FILE --dry-run` shows the difference. What is left out here is\n\
         # deleted. A thing with an `id` keeps its identity under another name; leave the id out for a new thing.\n\n{document}",
        snapshot.as_of, snapshot.controller
    ))
}

fn read_document(file: &Path) -> Result<Document, Error> {
    let wrong = |what: String, remedy: &str| Error::usage(format!("{}: {what}", file.display()), remedy);
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(DOCUMENT_MAX + 1)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(DOCUMENT_MAX + 1).read_to_string(&mut text))
    };
    let length =
        read.map_err(|error| wrong(error.to_string(), "a text file, or - for the standard input"))?;
    if length as u64 > DOCUMENT_MAX {
        return Err(wrong(
            format!("longer than {DOCUMENT_MAX} bytes"),
            "what `pollux config export` writes",
        ));
    }
    toml::from_str(&text).map_err(|error| {
        wrong(
            error.to_string().trim_end().to_owned(),
            "the form that `pollux config export` writes",
        )
    })
}

/// What an op does, for people.
fn op_words(op: &Op) -> String {
    match op {
        Op::CreatePool { name, .. } => format!("make pool {name}"),
        Op::PoolReady { pool, .. } => format!("report the space of pool {pool}"),
        Op::SetHome { pool, home } => format!("give pool {pool} the home {home}"),
        Op::CreateVolume { name, .. } => format!("make volume {name}"),
        Op::ResizeVolume { volume, size_bytes } => format!("grow volume {volume} to {}", Size(*size_bytes)),
        Op::CreateHost { name, .. } => format!("make host {name}"),
        Op::SetIqns { host, .. } => format!("set the initiators of host {host}"),
        Op::Map { volume, host, .. } => format!("show volume {volume} to host {host}"),
        Op::Unmap { volume, host } => format!("show volume {volume} to host {host} no longer"),
        Op::CreateAddress { cidr, .. } => format!("make address {cidr}"),
        Op::Set { item } => format!("set {} {}", item.kind(), item.name()),
        Op::Rename { kind, which, name } => format!("call {} {which} {name}", kind.as_str()),
        Op::Delete { kind, which } => format!("delete {} {which}", kind.as_str()),
    }
}

/// A refusal of steps speaks of them by number: says which they are.
pub(crate) fn explained(error: Error, ops: &[Op]) -> Error {
    let Error::Refused(mut error) = error else {
        return error;
    };
    for problem in &mut error.data.problems {
        let step = problem
            .path
            .strip_prefix("ops[")
            .and_then(|rest| rest.split_once(']'));
        if let Some((number, rest)) = step
            && let Some(op) = number.parse().ok().and_then(|number: usize| ops.get(number))
        {
            problem.path = format!("to {}{}", op_words(op), rest.replacen('.', ": ", 1));
        }
    }
    Error::Refused(error)
}

/// Asks the keeper what the steps would do.
pub(crate) async fn try_out(array: &Array, ops: &[Op], as_of: u64) -> Result<Changed, Error> {
    let request = Change {
        ops: ops.to_vec(),
        expected_index: Some(as_of),
        dry_run: true,
    };
    let tried = array
        .ask(array.here, config::CHANGE, &request, &Ctx::new(CHANGE))
        .await;
    tried.map_err(|error| explained(error.into(), ops))
}

fn find_steps(now: &Tables, wanted: &Document, name: &str) -> Result<Steps, Error> {
    steps(now, wanted).map_err(|problems| {
        let mut error = RpcError::new(
            Code::InvalidParams,
            name,
            "there is no way from the array to this",
        )
        .remedy("correct it; nothing was changed");
        error.data.problems = problems;
        error.into()
    })
}

/// Makes the array what the document says.
pub(crate) async fn bring_about(
    array: &Array,
    wanted: &Document,
    name: &str,
    how: Bring,
    mut action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    let (mut text, mut made, mut confirmed) = (String::new(), Vec::new(), how.yes);
    loop {
        let (snapshot, remark) = latest(array).await?;
        text += &remark;
        let way = find_steps(&snapshot.tables, wanted, name)?;
        if way.ops.is_empty() && !way.waits {
            if made.is_empty() {
                let _ = writeln!(
                    text,
                    "all is as {name} says already, as of change {}",
                    snapshot.as_of
                );
            }
            return Ok(Shown {
                text,
                json: json!({ "dry_run": how.dry_run, "changes": made }),
            });
        }
        if way.ops.is_empty() {
            return Err(still_waiting(wanted, &snapshot, &text));
        }
        let tried = try_out(array, &way.ops, snapshot.as_of).await?;
        let mut after = snapshot.tables.clone();
        tried.rows.iter().for_each(|row| after.apply(row));
        let found = differences(&snapshot.tables, &after);
        let plan = difference_text(&snapshot.tables, &after, &found, style) + &remarks(&way, style);
        if how.dry_run {
            let text = plan + "nothing was done\n";
            return Ok(Shown {
                text,
                json: json!({ "dry_run": true, "differences": found, "lost": way.lost, "waits": way.waits }),
            });
        }
        if !way.lost.is_empty() && !how.discard_data {
            let what = format!(
                "{plan}the data of {} would be lost; nothing was done",
                way.lost.join(", ")
            );
            return Err(Error::usage(
                what,
                "--discard-data, if that is meant; or leave it in the document",
            ));
        }
        if !confirmed {
            confirm(&plan)?;
            // The operator has seen all of it: what follows only waited for the first part.
            confirmed = true;
        }
        let done = change_from(array, way.ops.clone(), Some(snapshot.as_of), action.take()).await;
        let (action_id, changed) = done.map_err(|error| explained(error, &way.ops))?;
        text += &plan;
        let alone = if changed.alone {
            "; durable on one controller only, which is alone"
        } else {
            ""
        };
        let _ = writeln!(text, "done{alone}: index {}, action {action_id}", changed.index);
        made.push(json!({ "action_id": action_id, "changed": changed, "differences": found }));
        if !way.waits {
            return Ok(Shown {
                text,
                json: json!({ "dry_run": false, "changes": made }),
            });
        }
        for pool in &wanted.pool {
            wait_ready(array, &pool.name, Duration::from_secs(how.wait)).await;
        }
    }
}

/// Going back makes no volume smaller: whatever a host has put at its end stays. Says which keep their size.
pub(crate) fn keep_sizes(now: &Tables, wanted: &mut Document) -> String {
    let mut kept = String::new();
    for volume in &mut wanted.volume {
        let present = volume.id.and_then(|id| now.volumes.get(&id));
        if let Some(present) = present.filter(|present| present.size_bytes > volume.size.0) {
            volume.size = Size(present.size_bytes);
            let _ = writeln!(
                kept,
                "volume {} keeps its {}: a volume does not shrink",
                present.name, volume.size
            );
        }
    }
    kept
}

fn remarks(way: &Steps, style: Style) -> String {
    let mut text = String::new();
    for lost in &way.lost {
        let _ = writeln!(text, "{}", style.bad(&format!("the data of {lost} is lost")));
    }
    for made in &way.made {
        let _ = writeln!(text, "{made} is made, and empty");
    }
    if way.waits {
        text += "what stands on a pool that is made follows when the pool has its space\n";
    }
    text
}

fn still_waiting(wanted: &Document, snapshot: &Snapshot, done: &str) -> Error {
    let blank = |name: &String| {
        let mut pools = snapshot.tables.pools.values();
        pools.any(|pool| pool.name == *name && pool.ready.is_none())
    };
    let names: Vec<String> = wanted
        .pool
        .iter()
        .map(|pool| pool.name.clone())
        .filter(blank)
        .collect();
    Error::failed(
        format!(
            "{done}no space yet on pool {}: what stands on it is not made",
            names.join(", ")
        ),
        "`pollux pool show` says why; then import again: what is done already is not done twice",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::config::RowOp;

    fn tables() -> Tables {
        let rows = json!([
            { "put": { "kind": "pool", "id": "00000000000000000000000000000001", "name": "tank", "class": "fast",
                "home": "a", "redundancy": "mirror", "disks": [4, 5],
                "ready": { "capacity_bytes": 1_u64 << 40, "extent_bytes": 1 << 20 } } },
            { "put": { "kind": "volume", "id": "00000000000000000000000000000002", "name": "one",
                "pool": "00000000000000000000000000000001", "size_bytes": 10_u64 << 30, "serial": "0123456789abcdef" } },
            { "put": { "kind": "host", "id": "00000000000000000000000000000003", "name": "h",
                "iqns": ["iqn.2026-01.com.example:h"] } },
            { "put": { "kind": "mapping", "id": "00000000000000000000000000000004",
                "volume": "00000000000000000000000000000002", "host": "00000000000000000000000000000003", "lun": 0 } },
            { "put": { "kind": "address", "id": "00000000000000000000000000000005",
                "pool": "00000000000000000000000000000001", "cidr": "10.78.0.50/24" } },
        ]);
        let rows: Vec<RowOp> = serde_json::from_value(rows).unwrap();
        let mut tables = Tables::default();
        rows.iter().for_each(|row| tables.apply(row));
        tables
    }

    #[test]
    fn what_is_exported_is_read_back_and_a_person_can_read_it() {
        let snapshot = Snapshot {
            controller: ControllerId::A,
            as_of: 5,
            hash: config::Hex([0; 32]),
            tables: tables(),
        };
        let text = export_text(&snapshot).unwrap();
        for line in [
            "[[pool]]",
            "name = \"tank\"",
            "disks = [4, 5]",
            "size = \"10GiB\"",
            "lun = 0",
            "# Configuration",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("array.toml");
        std::fs::write(&file, &text).unwrap();
        let read = read_document(&file).unwrap();
        assert_eq!(read, Document::of(&snapshot.tables));
        assert_eq!(steps(&snapshot.tables, &read), Ok(Steps::default()));
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("array.toml");
        for (text, word) in [
            ("[[pool]]\nname = 3\n", "line 2"),
            ("[[volume]]\nname = \"v\"\npool = \"p\"\nsize = \"12Q\"\n", "12Q"),
            ("[[volume]]\nname = \"v\"\npool = \"p\"\nsize = -1\n", "-1"),
            ("[[volumes]]\n", "volumes"),
            ("[[host]]\nname = \"h\"\niqns = []\ncolour = \"red\"\n", "colour"),
            ("[[", "line 1"),
        ] {
            std::fs::write(&file, text).unwrap();
            let refused = read_document(&file).unwrap_err();
            let said = refused.to_string();
            assert!(
                said.contains(word) && said.contains("array.toml"),
                "{text}: {said}"
            );
            assert_eq!(refused.exit_code(), 2);
        }
        assert!(read_document(&folder.path().join("none.toml")).is_err());
    }

    #[test]
    fn going_back_makes_no_volume_smaller() {
        let now = tables();
        let mut wanted = Document::of(&now);
        assert_eq!(keep_sizes(&now, &mut wanted), "");
        wanted.volume[0].size = Size(1 << 30);
        let kept = keep_sizes(&now, &mut wanted);
        assert!(kept.contains("volume one keeps its 10GiB"), "{kept}");
        assert_eq!(wanted, Document::of(&now));
        wanted.volume[0].size = Size(20 << 30);
        assert_eq!(keep_sizes(&now, &mut wanted), "", "that volume has not grown");
    }

    #[test]
    fn a_difference_is_one_line() {
        let before = tables();
        let mut after = before.clone();
        for volume in after.volumes.values_mut() {
            volume.size_bytes = 12 << 30;
            volume.name = "uno".into();
        }
        after.addresses.clear();
        let text = difference_text(&before, &after, &differences(&before, &after), Style::plain());
        assert_eq!(
            text,
            "~ volume uno  name one -> uno, size 10GiB -> 12GiB\n- address 10.78.0.50/24  pool tank\n"
        );
        let text = difference_text(&after, &before, &differences(&after, &before), Style::plain());
        assert!(text.contains("+ address 10.78.0.50/24  pool tank\n"), "{text}");
        let none = Tables::default();
        let text = difference_text(&none, &before, &differences(&none, &before), Style::plain());
        assert!(text.contains("+ mapping one@h  lun 0\n"), "{text}");
    }

    #[test]
    fn a_refused_step_is_named_by_what_it_does() {
        let ops = [Op::Delete {
            kind: Kind::Volume,
            which: "one".into(),
        }];
        let mut error = RpcError::new(Code::InvalidParams, "a/config", "the request has a problem");
        for path in ["ops[0].which", "ops[7].x", "ops"] {
            error.data.problems.push(pollux_api::error::Problem {
                path: path.into(),
                what: "it is mapped".into(),
                remedy: "unmap it".into(),
            });
        }
        let said = explained(error.into(), &ops).to_string();
        assert!(
            said.contains("to delete volume one: which: it is mapped"),
            "{said}"
        );
        assert!(said.contains("ops[7].x: it is mapped"), "{said}");
    }
}
