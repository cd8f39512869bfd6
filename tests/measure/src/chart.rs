//! Bars in panels, and curves, on a page, as SVG: what every report draws.

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

/// A point of a curve, with the range of what was measured there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Its place, above zero.
    pub x: f64,
    /// The smallest value.
    pub low: f64,
    /// The median.
    pub middle: f64,
    /// The largest value.
    pub high: f64,
}

/// A curve over a logarithmic axis, and a level to which it is compared.
#[derive(Clone, Debug)]
pub struct Curve<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// What stands at the horizontal axis.
    pub x: &'a str,
    /// What stands at the vertical one.
    pub y: &'a str,
    /// In ascending order of their places.
    pub points: Vec<Point>,
    /// A name, and a value.
    pub level: Option<(&'a str, f64)>,
}

/// Size of a curve without its axes, and room for these.
const CURVE: (f64, f64) = (460.0, 260.0);
const AXES: (f64, f64) = (70.0, 50.0);

/// A page of curves side by side, all with the same vertical axis.
#[must_use]
pub fn curves(title: &str, head: &str, panels: &[Curve<'_>]) -> String {
    let values = panels.iter().flat_map(|panel| {
        let points = panel.points.iter().map(|point| point.high);
        points.chain(panel.level.map(|(_, level)| level))
    });
    let most = values.fold(1.0, f64::max);
    let step = tick(most);
    let top = (most / step).ceil() * step;
    let (width, height) = (CURVE.0 + AXES.0 + 40.0, CURVE.1 + AXES.1 + 100.0);
    #[expect(clippy::cast_precision_loss, reason = "some curves")]
    let page = width * panels.len() as f64 + 20.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{page:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"16\">{}</text>\n<text x=\"10\" y=\"40\" fill=\"#555\">{}</text>\n",
        escape(title),
        escape(head)
    );
    let mut left = AXES.0;
    for panel in panels {
        draw(&mut text, panel, (left, 80.0), (step, top));
        left += width;
    }
    text.push_str("</svg>\n");
    text
}

/// A round step that cuts `most` into at most ten.
fn tick(most: f64) -> f64 {
    let power = 10_f64.powf((most / 10.0).log10().floor());
    let fits = |step: &f64| step * power * 10.0 >= most;
    [1.0, 2.0, 5.0, 10.0].into_iter().find(fits).unwrap_or(10.0) * power
}

fn draw(text: &mut String, curve: &Curve<'_>, (left, up): (f64, f64), (step, top): (f64, f64)) {
    let (low, high) = match (curve.points.first(), curve.points.last()) {
        (Some(first), Some(last)) => (first.x.log10(), last.x.log10()),
        _ => (0.0, 1.0),
    };
    let span = (high - low).max(0.1);
    let at_x = |x: f64| left + 20.0 + (x.log10() - low) / span * (CURVE.0 - 40.0);
    let at_y = |y: f64| up + CURVE.1 - y / top * CURVE.1;
    let (right, down) = (left + CURVE.0, up + CURVE.1);
    let _ = writeln!(
        text,
        "<text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>\n\
         <text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
        up - 18.0,
        escape(curve.title),
        left + CURVE.0 / 2.0,
        down + 38.0,
        escape(curve.x),
        left - 60.0,
        up - 18.0,
        escape(curve.y)
    );
    let mut value = 0.0;
    while value <= top * 1.001 {
        let y = at_y(value);
        let _ = writeln!(
            text,
            "<line x1=\"{left:.0}\" x2=\"{right:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            left - 6.0,
            y + 4.0
        );
        value += step;
    }
    if let Some((name, level)) = curve.level {
        let y = at_y(level);
        let _ = writeln!(
            text,
            "<line x1=\"{left:.0}\" x2=\"{right:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{}\" \
             stroke-dasharray=\"6 4\"/><text x=\"{right:.0}\" y=\"{:.1}\" text-anchor=\"end\">{} {level:.0}</text>",
            COLORS[4],
            y - 4.0,
            escape(name)
        );
    }
    let line: Vec<String> = curve
        .points
        .iter()
        .map(|point| format!("{:.1},{:.1}", at_x(point.x), at_y(point.middle)))
        .collect();
    let color = COLORS[1];
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
        line.join(" ")
    );
    for point in &curve.points {
        let (x, y) = (at_x(point.x), at_y(point.middle));
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{color}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.0}</text>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0}</text>",
            at_y(point.low),
            at_y(point.high),
            x + 7.0,
            y + 14.0,
            point.middle,
            down + 18.0,
            point.x
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_round_and_there_are_at_most_ten() {
        for (most, step) in [
            (1.0, 0.1),
            (7.0, 1.0),
            (10.0, 1.0),
            (11.0, 2.0),
            (1750.0, 200.0),
            (4900.0, 500.0),
        ] {
            assert!((tick(most) - step).abs() < 1e-9, "{most}: {}", tick(most));
        }
    }

    #[test]
    fn equal_steps_of_a_logarithmic_axis_are_equally_wide() {
        let point = |x: f64| Point {
            x,
            low: 1.0,
            middle: 2.0,
            high: 3.0,
        };
        let curve = Curve {
            title: "pauses",
            x: "volumes",
            y: "ms",
            points: [1.0, 10.0, 100.0].map(point).to_vec(),
            level: Some(("floor", 1.0)),
        };
        let text = curves("a page", "a < b", &[curve]);
        let places: Vec<f64> = text
            .split("cx=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(places.len(), 3);
        assert!(
            (places[1] - places[0] - (places[2] - places[1])).abs() < 0.2,
            "{places:?}"
        );
        assert!(text.contains("a &lt; b") && text.contains("floor 1"));
    }
}
