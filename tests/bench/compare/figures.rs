//! What was measured, and what is required of it.

use serde_json::{Map, Value, json};

/// Everything that was measured, in the order in which it first came.
#[derive(Debug, Default)]
pub struct Figures {
    series: Vec<Series>,
    notes: Vec<String>,
    foreign: Vec<f64>,
}

/// One figure of one measurement, for all that were compared.
#[derive(Debug)]
pub struct Series {
    /// What identifies it.
    pub figure: Figure,
    columns: Vec<(&'static str, Vec<f64>)>,
}

/// What a series is called and how it is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The measurement: `bulk-1`.
    pub line: &'static str,
    /// What of it: `CPU`.
    pub name: &'static str,
    /// Of the values.
    pub unit: &'static str,
    /// What is required.
    pub required: Option<Required>,
}

/// What is required of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Required {
    /// Of its ratio to the reference, which is the second to last column.
    RatioAtLeast(f64),
    /// As above.
    RatioAtMost(f64),
    /// The reference over the figure: where more is better, and the question is what is lost.
    LossAtMost(f64),
    /// Of the figure itself.
    AtMost(f64),
}

impl Figure {
    /// A figure of which nothing is required.
    pub const fn new(line: &'static str, name: &'static str, unit: &'static str) -> Self {
        Self { line, name, unit, required: None }
    }

    /// The same with a requirement.
    #[must_use]
    pub const fn requires(mut self, required: Required) -> Self {
        self.required = Some(required);
        self
    }
}

impl Required {
    /// Whether values meet it; `None` when there is nothing to judge.
    pub fn is_met(self, reference: Option<f64>, value: Option<f64>) -> Option<bool> {
        let value = value?;
        Some(match self {
            Self::AtMost(limit) => value <= limit,
            Self::RatioAtLeast(limit) => value / reference? >= limit,
            Self::RatioAtMost(limit) => value / reference? <= limit,
            Self::LossAtMost(limit) => reference? / value <= limit,
        })
    }
}

impl Figures {
    /// Adds one round's value of `figure` for `column`.
    pub fn add(&mut self, figure: Figure, column: &'static str, value: f64) {
        let at = self.series.iter().position(|series| series.figure == figure).unwrap_or_else(|| {
            self.series.push(Series { figure, columns: Vec::new() });
            self.series.len() - 1
        });
        let columns = &mut self.series[at].columns;
        match columns.iter_mut().find(|(name, _)| *name == column) {
            Some((_, values)) => values.push(value),
            None => columns.push((column, vec![value])),
        }
    }

    /// Adds something that the reader of the figures must know.
    pub fn note(&mut self, note: String) {
        eprintln!("  ! {note}");
        self.notes.push(note);
    }

    /// Adds the share of the machine that other processes took during one measurement.
    pub fn add_foreign(&mut self, share: f64) {
        self.foreign.push(share);
    }

    /// The share of the machine that other processes took, median and worst.
    pub fn foreign(&self) -> Option<(f64, f64)> {
        Some((median(&self.foreign)?, self.foreign.iter().copied().fold(0.0, f64::max)))
    }

    /// All series.
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// What the reader must know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl Series {
    /// The median of a column.
    pub fn median(&self, column: &str) -> Option<f64> {
        median(self.values(column))
    }

    /// The ratio of two columns' medians.
    pub fn ratio(&self, value: &str, reference: &str) -> Option<f64> {
        Some(self.median(value)? / self.median(reference)?)
    }

    /// The least and the greatest ratio that any single round had.
    pub fn ratio_range(&self, value: &str, reference: &str) -> Option<(f64, f64)> {
        let ratios = self.values(value).iter().zip(self.values(reference)).map(|(value, reference)| value / reference);
        ratios.fold(None, |range, ratio| {
            let (low, high) = range.unwrap_or((ratio, ratio));
            Some((ratio.min(low), ratio.max(high)))
        })
    }

    /// Every value.
    pub fn to_json(&self, value: &str, reference: &str) -> Value {
        let columns: Map<String, Value> =
            self.columns.iter().map(|(name, values)| ((*name).to_owned(), json!(values))).collect();
        let medians: Map<String, Value> =
            self.columns.iter().map(|(name, values)| ((*name).to_owned(), json!(median(values)))).collect();
        let met = self.figure.required.and_then(|required| required.is_met(self.median(reference), self.median(value)));
        json!({
            "line": self.figure.line,
            "figure": self.figure.name,
            "unit": self.figure.unit,
            "rounds": columns,
            "medians": medians,
            "ratio": self.ratio(value, reference),
            "required": self.figure.required.map(|required| required.to_json()),
            "is_met": met,
        })
    }

    fn values(&self, column: &str) -> &[f64] {
        self.columns.iter().find(|(name, _)| *name == column).map(|(_, values)| &values[..]).unwrap_or_default()
    }
}

impl Required {
    fn to_json(self) -> Value {
        match self {
            Self::RatioAtLeast(limit) => json!({ "ratio_at_least": limit }),
            Self::RatioAtMost(limit) => json!({ "ratio_at_most": limit }),
            Self::LossAtMost(limit) => json!({ "loss_at_most": limit }),
            Self::AtMost(limit) => json!({ "at_most": limit }),
        }
    }
}

/// The middle one, or the middle of the two middle ones.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Figure = Figure::new("line", "rate", "1/s").requires(Required::RatioAtLeast(0.85));

    #[test]
    fn medians_are_of_the_middle() {
        for (values, expected) in
            [(&[][..], None), (&[3.0], Some(3.0)), (&[9.0, 1.0, 2.0], Some(2.0)), (&[1.0, 4.0, 2.0, 9.0], Some(3.0))]
        {
            assert_eq!(median(values), expected);
        }
    }

    #[test]
    fn a_ratio_is_that_of_the_medians_and_its_range_that_of_the_rounds() {
        let mut figures = Figures::default();
        for (relay, weft) in [(10.0, 9.0), (20.0, 10.0), (12.0, 12.0)] {
            figures.add(RATE, "relay", relay);
            figures.add(RATE, "weft", weft);
        }
        let series = &figures.series()[0];
        assert_eq!(series.ratio("weft", "relay"), Some(10.0 / 12.0));
        assert_eq!(series.ratio_range("weft", "relay"), Some((0.5, 1.0)));
        assert_eq!(series.ratio("weft", "direct"), None);
    }

    #[test]
    fn requirements_are_judged_by_their_own_rule() {
        for (required, reference, value, expected) in [
            (Required::RatioAtLeast(0.85), Some(100.0), Some(85.0), Some(true)),
            (Required::RatioAtLeast(0.85), Some(100.0), Some(84.0), Some(false)),
            (Required::RatioAtMost(1.1), Some(10.0), Some(12.0), Some(false)),
            (Required::LossAtMost(1.02), Some(100.0), Some(99.0), Some(true)),
            (Required::LossAtMost(1.02), Some(100.0), Some(97.0), Some(false)),
            (Required::AtMost(12.0), None, Some(11.0), Some(true)),
            (Required::RatioAtMost(1.1), None, Some(1.0), None),
            (Required::AtMost(12.0), None, None, None),
        ] {
            assert_eq!(required.is_met(reference, value), expected, "{required:?} {reference:?} {value:?}");
        }
    }
}
