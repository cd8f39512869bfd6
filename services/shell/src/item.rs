//! `pollux config list|get|set|delete`: what has no noun of its own, one thing at a time.
//!
//! A thing is written as `field=value`, each value as in the exported text; what is not named stays as it is. A secret is
//! never on the command line, where everybody on the machine could read it: `field=@FILE` or `field=@-`.

use crate::array::Array;
use crate::cli::Config;
use crate::configuration::{difference_text, explained, try_out};
use crate::error::Error;
use crate::print::Style;
use crate::resources::{Shown, change_from, listing};
use crate::status::snapshot;
use pollux_api::action::ActionId;
use pollux_api::config::item::{Item, Secret};
use pollux_api::config::{Kind, Op, Resource, Tables};
use pollux_config_document::{Document, differences, named};
use serde_json::json;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

/// Longest value that is read from a file.
const VALUE_MAX: u64 = 64 << 10;
/// Fields whose values are secrets.
const SECRETS: [&str; 2] = ["password", "secret"];

fn item_kind(word: &str) -> Result<Kind, Error> {
    Kind::named(word).filter(|kind| kind.is_item()).ok_or_else(|| {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_item());
        let kinds: Vec<_> = kinds.map(Kind::as_str).collect();
        let what = format!("`{}` is no kind of thing that is set here", word.escape_default());
        let remedy = format!(
            "one of {}; pools, volumes, hosts, mappings and addresses have commands of their own",
            kinds.join(", ")
        );
        Error::usage(what, remedy)
    })
}

/// The item of that name, with names for what it refers to.
fn present(tables: &Tables, kind: Kind, name: &str) -> Option<Item> {
    let rows = tables.items.get(&kind)?;
    let row = rows
        .values()
        .find(|row| row.name() == name || row.id().to_string() == name)?;
    Some(named(tables, row))
}

fn missing(kind: Kind, name: &str) -> Error {
    Error::failed(
        format!("there is no {kind} `{}`", name.escape_default()),
        format!("`pollux config list {kind}` shows those that exist"),
    )
}

/// The four commands.
///
/// # Errors
/// Wrong words, or what the keeper refuses.
pub(crate) async fn run(
    array: &Array,
    command: Config,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    match command {
        Config::List { kind } => {
            let kind = item_kind(&kind)?;
            let snapshot = snapshot(array).await?;
            let rows = snapshot.tables.of_kind(kind);
            let text = listing(&snapshot, kind, &rows);
            let json = json!({ "controller": snapshot.controller, "as_of": snapshot.as_of, "rows": rows });
            Ok(Shown { text, json })
        }
        Config::Get { kind, name } => {
            let kind = item_kind(&kind)?;
            let snapshot = snapshot(array).await?;
            let item = present(&snapshot.tables, kind, &name).ok_or_else(|| missing(kind, &name))?;
            Ok(Shown::new(written(&item)?, &item))
        }
        Config::Set {
            kind,
            name,
            fields,
            dry_run,
        } => {
            let kind = item_kind(&kind)?;
            let snapshot = snapshot(array).await?;
            let before = present(&snapshot.tables, kind, &name);
            let mut stdin = std::io::stdin().lock();
            let item = with_fields(kind, &name, before.as_ref(), &fields, &mut stdin)?;
            let op = Op::Set { item };
            change(array, op, dry_run, action, style).await
        }
        Config::Delete {
            kind,
            name,
            discard_data,
            dry_run,
        } => {
            let kind = item_kind(&kind)?;
            if matches!(kind, Kind::FileSystem | Kind::Snapshot) && !discard_data && !dry_run {
                let what = format!("the data of {kind} {name} would be lost; nothing was done");
                return Err(Error::usage(what, "--discard-data, if that is meant"));
            }
            let op = Op::Delete { kind, which: name };
            change(array, op, dry_run, action, style).await
        }
        _ => Err(Error::usage(
            "this is no command about a thing",
            "see `pollux config --help`",
        )),
    }
}

async fn change(
    array: &Array,
    op: Op,
    dry_run: bool,
    action: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    let ops = vec![op];
    let snapshot = snapshot(array).await?;
    let shown = |rows: &[pollux_api::config::RowOp]| {
        let mut after = snapshot.tables.clone();
        rows.iter().for_each(|row| after.apply(row));
        let found = differences(&snapshot.tables, &after);
        let mut text = difference_text(&snapshot.tables, &after, &found, style);
        if found.is_empty() {
            text.push_str("all is so already\n");
        }
        (text, found)
    };
    if dry_run {
        let tried = try_out(array, &ops, snapshot.as_of).await?;
        let (text, found) = shown(&tried.rows);
        return Ok(Shown {
            text: text + "nothing was done\n",
            json: json!({ "dry_run": true, "differences": found }),
        });
    }
    let done = change_from(array, ops.clone(), None, action).await;
    let (action, changed) = done.map_err(|error| explained(error, &ops))?;
    let (mut text, found) = shown(&changed.rows);
    let alone = if changed.alone {
        "; durable on one controller only, which is alone"
    } else {
        ""
    };
    let _ = writeln!(text, "done{alone}: index {}, action {action}", changed.index);
    Ok(Shown {
        text,
        json: json!({ "action_id": action, "changed": changed, "differences": found }),
    })
}

fn table(item: &Item) -> Result<toml::Table, Error> {
    let written = toml::Table::try_from(item);
    written.map_err(|error| Error::failed(format!("it cannot be written: {error}"), "report this"))
}

/// As in the exported text.
fn written(item: &Item) -> Result<String, Error> {
    let mut table = table(item)?;
    table.remove("kind");
    toml::to_string(&table)
        .map_err(|error| Error::failed(format!("it cannot be written: {error}"), "report this"))
}

/// The item with these fields, and the others as they are.
fn with_fields(
    kind: Kind,
    name: &str,
    before: Option<&Item>,
    fields: &[String],
    stdin: &mut impl Read,
) -> Result<Item, Error> {
    let mut all = before.map(table).transpose()?.unwrap_or_default();
    if before.is_none() {
        all.insert("name".into(), name.into());
    }
    for field in fields {
        let Some((path, value)) = field.split_once('=') else {
            let what = format!("`{}` has no `=`", field.escape_default());
            return Err(Error::usage(
                what,
                "field=value, as in size=\"1G\"; field= takes the field out",
            ));
        };
        let mut place = &mut all;
        let mut parts: Vec<&str> = path.split('.').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let inner = place.entry(part).or_insert_with(|| toml::Table::new().into());
            place = inner.as_table_mut().ok_or_else(|| {
                Error::usage(
                    format!("`{path}`: `{part}` has no fields"),
                    "the fields that `pollux config get` shows",
                )
            })?;
        }
        if value.is_empty() {
            place.remove(last);
            continue;
        }
        let value = match value.strip_prefix('@') {
            Some(file) => from_file(path, file, stdin)?.into(),
            None if SECRETS.contains(&last) => {
                let what = format!("{path}: everybody on this machine can read a command line");
                return Err(Error::usage(
                    what,
                    format!("{path}=@FILE, or {path}=@- for the standard input"),
                ));
            }
            None => plain(value),
        };
        place.insert(last.into(), value);
    }
    // As a document of one thing, so that what is wrong is shown with its line.
    all.remove("kind");
    let wrong = |what: &str| {
        let what = format!("{kind} {name}: {}", what.trim_end());
        Error::usage(
            what,
            format!("the fields of a {kind}, as the reference lists them"),
        )
    };
    let alone = toml::Table::from_iter([(kind.as_str().to_owned(), toml::Value::Array(vec![all.into()]))]);
    let text = toml::to_string(&alone).map_err(|error| wrong(&error.to_string()))?;
    let document = toml::from_str::<Document>(&text).map_err(|error| wrong(&error.to_string()))?;
    let item = document.items().pop().map(|(_, item)| item);
    item.ok_or_else(|| wrong("there is nothing in it"))
}

/// A value as in the exported text; a word without quotes is that word.
fn plain(text: &str) -> toml::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("v = {text}")).ok();
    let value = parsed
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("v"));
    value.unwrap_or_else(|| text.into())
}

fn from_file(path: &str, file: &str, stdin: &mut impl Read) -> Result<String, Error> {
    let mut text = String::new();
    let read = if file == "-" {
        stdin.take(VALUE_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(Path::new(file))
            .and_then(|file| file.take(VALUE_MAX + 1).read_to_string(&mut text))
    };
    let wrong = |what: String| {
        Error::usage(
            format!("{path}=@{file}: {what}"),
            "a file with the value, one line",
        )
    };
    if read.map_err(|error| wrong(error.to_string()))? as u64 > VALUE_MAX {
        return Err(wrong(format!("longer than {VALUE_MAX} bytes")));
    }
    // An editor ends the line.
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// What an item says, field by field, for people.
pub(crate) fn fields(tables: &Tables, item: &Item) -> Vec<(String, String)> {
    let secrets: Vec<&str> = item
        .clone()
        .secrets()
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    let Ok(table) = table(&named(tables, item)) else {
        return Vec::new();
    };
    let shown = table
        .into_iter()
        .filter(|(name, _)| !matches!(name.as_str(), "kind" | "id"));
    shown
        .map(|(name, value)| {
            let value = match value {
                // Sealed anew it looks otherwise: that much is shown, by eight digits of it.
                toml::Value::String(text) if secrets.contains(&name.as_str()) => {
                    if !text.starts_with(Secret::SEALED) {
                        return (name, "(not shown)".to_owned());
                    }
                    let end: String = text
                        .chars()
                        .rev()
                        .take(8)
                        .collect::<Vec<_>>()
                        .into_iter()
                        .rev()
                        .collect();
                    format!("(sealed …{end})")
                }
                toml::Value::String(text) => text,
                toml::Value::Array(list) if list.iter().all(toml::Value::is_str) => list
                    .iter()
                    .filter_map(toml::Value::as_str)
                    .collect::<Vec<_>>()
                    .join(" "),
                other => other.to_string(),
            };
            (name, value)
        })
        .collect()
}

/// The cells of an item in a table: its name, and the rest of it.
pub(crate) fn cells(tables: &Tables, row: &Resource) -> Vec<String> {
    let Resource::Item(item) = row else {
        return Vec::new();
    };
    let rest = fields(tables, item)
        .into_iter()
        .filter(|(name, _)| name != "name");
    let rest: Vec<String> = rest.map(|(name, value)| format!("{name} {value}")).collect();
    vec![item.name().clone(), rest.join(", ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(kind: Kind, name: &str, before: Option<&Item>, fields: &[&str]) -> Result<Item, Error> {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        with_fields(kind, name, before, &fields, &mut "from the input\n".as_bytes())
    }

    #[test]
    fn fields_are_set_kept_nested_and_taken_out() {
        let share = set(
            Kind::Share,
            "projects",
            None,
            &[
                "file_system=home",
                "path=/projects",
                "nfs.clients=[{who='*',access='read_only'}]",
            ],
        );
        let share = share.unwrap();
        let Item::Share(row) = &share else {
            panic!("{share:?}")
        };
        assert_eq!(
            (row.path.as_str(), row.nfs.as_ref().unwrap().clients.len()),
            ("/projects", 1)
        );
        let other = set(
            Kind::Share,
            "projects",
            Some(&share),
            &["smb.users=[\"ada\"]", "smb.access=read_write", "nfs="],
        );
        let Item::Share(row) = other.unwrap() else {
            panic!()
        };
        assert!(row.nfs.is_none() && row.smb.unwrap().users == ["ada"] && row.path == "/projects");
        let schedule = set(
            Kind::Schedule,
            "hourly",
            None,
            &["every_minutes=60", "keep=24", "volumes=[\"v\"]"],
        );
        assert!(matches!(schedule.unwrap(), Item::Schedule(row) if row.every_minutes == 60 && row.enabled));
    }

    #[test]
    fn wrong_fields_are_named_with_what_would_be_right() {
        for (fields, word) in [
            (&["keep"][..], "field=value"),
            (&["every_minutes=soon", "keep=1"], "every_minutes"),
            (&["colour=red", "every_minutes=60", "keep=1"], "colour"),
            (&["keep=1"], "every_minutes"),
            (&["keep=1", "keep.x=1"], "has no fields"),
            (&["keep=@/does/not/exist"], "/does/not/exist"),
        ] {
            let error = set(Kind::Schedule, "s", None, fields).unwrap_err().to_string();
            assert!(error.contains(word), "{fields:?}: {error}");
        }
        assert!(
            item_kind("volume")
                .unwrap_err()
                .to_string()
                .contains("commands of their own")
        );
        assert_eq!(item_kind("host-group").unwrap(), Kind::HostGroup);
    }

    #[test]
    fn a_secret_comes_from_a_file_and_is_not_shown() {
        let refused = set(Kind::User, "ada", None, &["level=admin", "password=hunter22"]).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains("password=@FILE") && !said.contains("hunter22"),
            "{said}"
        );
        let user = set(Kind::User, "ada", None, &["level=admin", "password=@-"]).unwrap();
        let mut clear = user.clone();
        assert_eq!(clear.secrets()[0].1.expose(), "from the input");
        assert!(!format!("{user:?}").contains("input"));
        let shown = fields(&Tables::default(), &user);
        let password = shown.iter().find(|(name, _)| name == "password").unwrap();
        assert_eq!(password.1, "(not shown)");
    }
}
