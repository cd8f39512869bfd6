//! Medians and percentiles of what was measured.

/// The middle value; of an even number, the mean of the two in the middle. `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[half]),
        _ => Some(f64::midpoint(sorted[half - 1], sorted[half])),
    }
}

/// The smallest value that at least `percent` per cent of the values do not exceed. Sorts the values.
#[must_use]
pub fn percentile(values: &mut [u64], percent: f64) -> Option<u64> {
    values.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place among at most some millions of values"
    )]
    let place = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values.get(place.saturating_sub(1)).copied()
}

/// What one round of one bus yielded, for one size of message.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// One call at a time: the median time of a call, µs.
    pub p50_us: f64,
    /// One call at a time: 99 of 100 calls take no longer, µs.
    pub p99_us: f64,
    /// Many calls at the same time: calls per second.
    pub calls_per_s: f64,
    /// Many calls at the same time: processor time of the bus (all its processes) for one call, µs.
    pub cpu_us: f64,
}

/// A figure of a sample: its name and how it is read.
pub type Figure = (&'static str, fn(&Sample) -> f64);

/// Every figure that is compared, in the order of the table.
pub const FIGURES: [Figure; 4] = [
    ("p50", |sample| sample.p50_us),
    ("p99", |sample| sample.p99_us),
    ("calls/s", |sample| sample.calls_per_s),
    ("CPU", |sample| sample.cpu_us),
];

/// Median of each figure.
#[must_use]
pub fn medians(samples: &[Sample]) -> Option<Sample> {
    let of = |figure: fn(&Sample) -> f64| median(&samples.iter().map(figure).collect::<Vec<_>>());
    Some(Sample {
        p50_us: of(|sample| sample.p50_us)?,
        p99_us: of(|sample| sample.p99_us)?,
        calls_per_s: of(|sample| sample.calls_per_s)?,
        cpu_us: of(|sample| sample.cpu_us)?,
    })
}

/// Median over the rounds of the ratio of one figure of `these` to `those`: both were taken in the same round, so
/// what slowed the machine down in that round falls out.
#[must_use]
pub fn ratio(these: &[Sample], those: &[Sample], figure: fn(&Sample) -> f64) -> Option<f64> {
    let ratios: Vec<f64> = these
        .iter()
        .zip(those)
        .map(|(this, that)| figure(this) / figure(that))
        .filter(|ratio| ratio.is_finite())
        .collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_percentile_is_a_value_that_was_there() {
        assert_eq!(percentile(&mut [], 50.0), None);
        let mut values: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(percentile(&mut values, 50.0), Some(100));
        assert_eq!(percentile(&mut values, 99.0), Some(198));
        assert_eq!(percentile(&mut values, 100.0), Some(200));
        assert_eq!(percentile(&mut [7], 1.0), Some(7));
    }

    #[test]
    fn a_disturbed_round_falls_out_of_the_ratio() {
        let sample = |p50_us| Sample {
            p50_us,
            ..Sample::default()
        };
        // The second round was ten times as slow, for both.
        let (these, those) = ([10.0, 100.0, 11.0].map(sample), [5.0, 50.0, 5.5].map(sample));
        assert_eq!(ratio(&these, &those, |sample| sample.p50_us), Some(2.0));
        // A processor time of zero is no ratio.
        assert_eq!(ratio(&these, &those, |sample| sample.cpu_us), None);
    }
}
