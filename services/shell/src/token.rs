//! `pollux token`, `pollux management`: who may come in from afar, and where.
//!
//! Each controller has tokens of its own. What makes or takes away one acts on the controller that is asked (`--on`); a
//! list shows both, and whom it could not ask.

use crate::array::{Array, BOTH, CHANGE, QUESTION};
use crate::cli::Token as Words;
use crate::error::Error;
use crate::print::{Style, now_unix_ms, table, utc};
use crate::resources::Shown;
use pollux_api::action::ActionId;
use pollux_api::id::ControllerId;
use pollux_api::router::{
    TOKEN_ADD, TOKEN_LIST, TOKEN_REMOVE, Token, TokenAdd, TokenAdded, TokenRemove, TokenRemoved, WEB, Web,
};
use pollux_runtime::Ctx;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What each controller says, and who does not answer, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Report<T> {
    /// By whose view it is.
    pub views: BTreeMap<ControllerId, T>,
    /// Not known.
    pub unknown: BTreeMap<ControllerId, String>,
}

async fn gather<T: serde::de::DeserializeOwned>(array: &Array, method: &str) -> Report<T> {
    let mut report = Report {
        views: BTreeMap::new(),
        unknown: BTreeMap::new(),
    };
    for at in BOTH {
        match array.ask(at, method, &(), &Ctx::new(QUESTION)).await {
            Ok(view) => drop(report.views.insert(at, view)),
            Err(error) => drop(report.unknown.insert(at, error.to_string())),
        }
    }
    report
}

fn unknown<T>(report: &Report<T>, style: Style) -> String {
    let line = |(at, why): (&ControllerId, &String)| {
        style.warn(&format!("controller {at} does not answer: {why}")) + "\n"
    };
    report.unknown.iter().map(line).collect()
}

/// Carries a command out.
///
/// # Errors
/// The router refuses, or there is no such token.
pub async fn run(
    array: &Array,
    command: Words,
    under: Option<ActionId>,
    style: Style,
) -> Result<Shown, Error> {
    let (at, ctx) = (
        array.here,
        under.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE)),
    );
    match command {
        Words::Add { name, role, expires } => {
            let asked = TokenAdd {
                name,
                role,
                expires_days: expires,
            };
            let added: TokenAdded = array.ask(at, TOKEN_ADD, &asked, &ctx).await?;
            let text = format!(
                "{}\n  token {} of controller {at}: {}, good until {}; it is shown this once\n  action {}\n",
                added.secret,
                added.token.name,
                added.token.role,
                added
                    .token
                    .expires_unix_ms
                    .map_or_else(|| "it is removed".to_owned(), day),
                ctx.action
            );
            let json = json!({ "action_id": ctx.action, "controller": at, "added": added });
            Ok(Shown { text, json })
        }
        Words::List => {
            let report = gather::<Vec<Token>>(array, TOKEN_LIST).await;
            Ok(Shown::new(render(&report, now_unix_ms(), style), &report))
        }
        Words::Remove { name } => {
            let asked = TokenRemove { name };
            let answer: TokenRemoved = array.ask(at, TOKEN_REMOVE, &asked, &ctx).await?;
            let name = asked.name;
            if !answer.removed {
                return Err(Error::failed(
                    format!("controller {at} has no token {name}"),
                    "pollux token list; --on says which controller is meant",
                ));
            }
            let text = format!(
                "token {name} of controller {at} removed, and its connections ended\n  action {}\n",
                ctx.action
            );
            let json = json!({ "action_id": ctx.action, "controller": at, "removed": answer.removed });
            Ok(Shown { text, json })
        }
    }
}

/// The date of a moment.
fn day(unix_ms: u64) -> String {
    utc(unix_ms).chars().take(10).collect()
}

fn render(report: &Report<Vec<Token>>, now_unix_ms: u64, style: Style) -> String {
    let row = |at: &ControllerId, token: &Token| {
        vec![
            at.to_string(),
            token.name.clone(),
            token.role.to_string(),
            day(token.created_unix_ms),
            match token.expires_unix_ms {
                None => "it is removed".to_owned(),
                Some(end) if end <= now_unix_ms => format!("{}, EXPIRED", day(end)),
                Some(end) => day(end),
            },
        ]
    };
    let views = report.views.iter();
    let rows: Vec<Vec<String>> = views
        .flat_map(|(at, tokens)| tokens.iter().map(move |token| row(at, token)))
        .collect();
    let mut text = if rows.is_empty() {
        "no tokens: nobody comes in from afar; `pollux token add NAME --role viewer` makes one\n".to_owned()
    } else {
        table(&["on", "name", "role", "made", "good until"], &rows)
    };
    text += &unknown(report, style);
    text
}

/// Shows where each controller lets in those who come from afar, and by which certificate it is known.
pub async fn management(array: &Array, style: Style) -> Shown {
    let report = gather::<Web>(array, WEB).await;
    let mut text = String::new();
    for (at, web) in &report.views {
        let state = match (&web.address, web.listening) {
            (None, _) => "none".to_owned(),
            (Some(address), true) => format!("https://{address}/rpc"),
            (Some(address), false) => style.bad(&format!("{address}, NOT LISTENING")),
        };
        let _ = writeln!(text, "{}", style.bold(&format!("controller {at}: {state}")));
        if let Some(problem) = &web.problem {
            let _ = writeln!(text, "  {problem}");
        }
        if let Some(certificate) = &web.certificate {
            let _ = writeln!(text, "  certificate {certificate}");
        }
        if let Some(fingerprint) = &web.fingerprint {
            // 95 characters: two lines of sixteen bytes.
            let (one, other) = fingerprint.split_at_checked(48).unwrap_or((fingerprint, ""));
            let _ = writeln!(text, "  SHA-256 {one}\n          {other}");
        }
        let _ = writeln!(
            text,
            "  {} connections, {} requests refused",
            web.connections, web.refused
        );
    }
    text += &unknown(&report, style);
    Shown::new(text, &report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::role::Role;

    #[test]
    fn a_list_says_whose_it_is_and_what_is_not_known() {
        let token = |name: &str, expires_unix_ms| Token {
            name: name.into(),
            role: Role::Operator,
            created_unix_ms: 1_700_000_000_000,
            expires_unix_ms,
        };
        let mut report = Report {
            views: BTreeMap::from([(
                ControllerId::A,
                vec![token("ops", None), token("old", Some(1_700_000_000_001))],
            )]),
            unknown: BTreeMap::from([(ControllerId::B, "no link".to_owned())]),
        };
        let text = render(&report, 1_800_000_000_000, Style::plain());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in [
            "ops",
            "operator",
            "EXPIRED",
            "controller b does not answer: no link",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        report.views.clear();
        assert!(render(&report, 0, Style::plain()).starts_with("no tokens"));
    }
}
