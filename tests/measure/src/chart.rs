//! Bars in panels on a page, as SVG: what every report draws.

use std::fmt::Write;

const COLORS: [&str; 8] = [
    "#9aa5b1", "#0b6e4f", "#3fa67c", "#c97b2a", "#b5482f", "#4a6fa5", "#c3cad2", "#14a37f",
];
const ROW: usize = 20;
const LABEL: usize = 150;
const WIDTH: usize = 420;
const PANEL: usize = LABEL + WIDTH + 90;

/// A bar.
#[derive(Clone, Copy, Debug)]
pub struct Bar<'a> {
    /// What stands before it.
    pub label: &'a str,
    /// Its length, as a multiple of 1, which stands behind it.
    pub ratio: f64,
    /// Its row, which has a color of its own.
    pub row: usize,
}

/// Panels, row by row, each with the same number of bars at most.
#[derive(Debug)]
pub struct Chart {
    text: String,
    columns: usize,
    bars: usize,
    panels: usize,
}

impl Chart {
    /// An empty page for `panels` panels in so many columns, with at most so many bars in each.
    #[must_use]
    pub fn new(title: &str, head: &str, columns: usize, panels: usize, bars: usize) -> Self {
        let columns = columns.max(1);
        let rows = panels.div_ceil(columns);
        let (width, height) = (PANEL * columns + 20, Self::height(bars) * rows + 60);
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"20\" font-size=\"16\">{}</text>\n<text x=\"10\" y=\"40\" fill=\"#555\">{}</text>\n",
            escape(title),
            escape(head)
        );
        Self {
            text,
            columns,
            bars,
            panels: 0,
        }
    }

    const fn height(bars: usize) -> usize {
        bars * ROW + 60
    }

    /// The next panel.
    pub fn panel(&mut self, title: &str, bars: &[Bar<'_>]) {
        let (x, y) = (
            10 + self.panels % self.columns * PANEL,
            60 + self.panels / self.columns * Self::height(self.bars),
        );
        self.panels += 1;
        let _ = writeln!(
            self.text,
            "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            y + 16,
            escape(title)
        );
        let most = bars.iter().map(|bar| bar.ratio).fold(1.0, f64::max);
        for Bar { label, ratio, row } in bars {
            let top = y + 26 + row * ROW;
            #[expect(clippy::cast_precision_loss, reason = "some hundred pixels")]
            let length = (WIDTH as f64 * ratio / most).max(1.0);
            #[expect(clippy::cast_precision_loss, reason = "some hundred pixels")]
            let end = (x + LABEL) as f64 + length + 6.0;
            let _ = writeln!(
                self.text,
                "<text x=\"{x}\" y=\"{}\">{}</text><rect x=\"{}\" y=\"{top}\" width=\"{length:.1}\" height=\"{}\" \
                 fill=\"{}\"/><text x=\"{end:.1}\" y=\"{}\">{ratio:.2}</text>",
                top + 13,
                escape(label),
                x + LABEL,
                ROW - 4,
                COLORS[row % COLORS.len()],
                top + 13,
            );
        }
    }

    /// The page.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
