//! How things look on paper 80 columns wide: tables, sizes, times, colours.

use std::io::IsTerminal;
use std::time::Duration;

/// Widest line of a table.
pub const WIDTH: usize = 80;

/// Whether words may be coloured.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Colours only on a terminal, and not where `NO_COLOR` is set (no-color.org).
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: std::io::stdout().is_terminal() && !refused,
        }
    }

    /// No colours.
    pub const fn plain() -> Self {
        Self { colour: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A heading.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Something is wrong.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Something wants attention.
    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Less important.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// A table with a heading, each column as wide as its widest cell. If that is more than 80 columns, the widest column
/// is cut until it fits, and a cut cell ends in `…`.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let columns = heading.len();
    let mut widths: Vec<usize> = (0..columns)
        .map(|c| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(c))
                .map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(heading[c].chars().count())
        })
        .collect();
    let between = 2 * columns.saturating_sub(1);
    while widths.iter().sum::<usize>() + between > WIDTH {
        let Some(widest) = widths.iter_mut().max() else {
            break;
        };
        if *widest <= 8 {
            break;
        }
        *widest -= 1;
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (c, cell) in cells.enumerate() {
            line += &fit(cell, widths[c]);
            if c + 1 < columns {
                line += "  ";
            }
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut heading.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// The text in exactly `width` columns.
pub fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return format!("{text}{}", " ".repeat(width - length));
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Indents and breaks a sentence at spaces so that no line is wider than 80 columns.
pub fn wrap(text: &str, indent: usize) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &format!("{}{line}\n", " ".repeat(indent));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    if !line.is_empty() {
        lines += &format!("{}{line}\n", " ".repeat(indent));
    }
    lines
}

/// A time span, to three digits at most: `340 us`, `12.3 ms`, `4.5 s`, `3 min`, `2 h`, `5 d`.
pub fn span(us: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let tenths = us * 10 / unit;
        if tenths < 1000 {
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        } else {
            format!("{} {name}", us / unit)
        }
    };
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => scaled(1_000, "ms"),
        1_000_000..120_000_000 => scaled(1_000_000, "s"),
        120_000_000..7_200_000_000 => format!("{} min", us / 60_000_000),
        7_200_000_000..172_800_000_000 => format!("{} h", us / 3_600_000_000),
        _ => format!("{} d", us / 86_400_000_000),
    }
}

/// A time span given in ms.
pub fn span_ms(ms: u64) -> String {
    span(ms.saturating_mul(1000))
}

/// `4.0 GiB`; exact byte counts only where they are no multiple.
pub fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift > 0 {
            let whole = bytes >> shift;
            if bytes.is_multiple_of(1 << shift) {
                return format!("{whole} {unit}");
            }
            let tenth = ((bytes % (1 << shift)) * 10) >> shift;
            return format!("{whole}.{tenth} {unit}");
        }
    }
    format!("{bytes} B")
}

/// A moment of Unix time as `2025-01-31 12:34:56.789 UTC`.
pub fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days since 1970-01-01 to a date of the Gregorian calendar; eras of 400 years that begin on 1 March
    // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (
        doy - (153 * mp + 2) / 5 + 1,
        if mp < 10 { mp + 3 } else { mp - 9 },
    );
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03} UTC",
        ms % 1000
    )
}

/// The present, ms of Unix time.
#[expect(
    clippy::disallowed_methods,
    reason = "says when something was looked at, to people"
)]
pub fn now_unix_ms() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(Duration::as_millis(&now)).unwrap_or(u64::MAX)
}

/// `unknown` for what is not known.
pub fn known(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::size::Size;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, back) in [
            ("4096", 4096, "4 KiB"),
            ("64K", 65_536, "64 KiB"),
            ("1.5GiB", 1_610_612_736, "1.5 GiB"),
            ("10g", 10 << 30, "10 GiB"),
            ("7", 7, "7 B"),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
            assert_eq!(size(bytes), back);
        }
    }

    #[test]
    fn spans_are_short() {
        for (us, text) in [
            (0, "0 us"),
            (999, "999 us"),
            (12_345, "12.3 ms"),
            (340_000, "340 ms"),
            (4_500_000, "4.5 s"),
            (180_000_000, "3 min"),
            (10_800_000_000, "3 h"),
        ] {
            assert_eq!(span(us), text);
        }
    }

    #[test]
    fn moments_are_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(utc(951_827_696_789), "2000-02-29 12:34:56.789 UTC");
        assert_eq!(utc(1_740_787_199_999), "2025-02-28 23:59:59.999 UTC");
    }

    #[test]
    fn a_table_fits_the_paper_and_shows_what_was_cut() {
        let rows = vec![
            vec!["short".into(), "x".repeat(200)],
            vec!["y".repeat(20), "z".into()],
        ];
        let text = table(&["NAME", "WHAT"], &rows);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.lines().nth(1).unwrap().ends_with('…'));
        assert_eq!(text.lines().next(), Some("NAME                  WHAT"));
    }

    #[test]
    fn sentences_are_broken_at_spaces() {
        let text = wrap(&"word ".repeat(40), 4);
        assert!(
            text.lines()
                .all(|line| line.starts_with("    word") && line.len() <= WIDTH)
        );
        assert_eq!(text.split_whitespace().count(), 40);
    }
}
