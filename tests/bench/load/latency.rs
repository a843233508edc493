//! How long each exchange took.

use std::time::Duration;

use serde_json::{Value, json};

/// Every latency that was seen, so that percentiles are exact. A run of seconds has some hundred thousand of them.
#[derive(Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// Adds one; more than four seconds count as four.
    pub fn add(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Their number, and percentiles in microseconds; null when there are none.
    pub fn into_json(mut self) -> Value {
        self.0.sort_unstable();
        json!({
            "count": self.0.len(),
            "p50_us": self.percentile(0.50),
            "p99_us": self.percentile(0.99),
            "max_us": self.percentile(1.0),
        })
    }

    /// The least latency that `share` of all do not exceed.
    fn percentile(&self, share: f64) -> Option<f64> {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).map(|nanoseconds| f64::from(*nanoseconds) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let mut latencies = Latencies::default();
        (1..=200).rev().for_each(|micros| latencies.add(Duration::from_micros(micros)));
        let value = latencies.into_json();
        assert_eq!(value["count"], 200);
        assert_eq!(value["p50_us"], 100.0);
        assert_eq!(value["p99_us"], 198.0);
        assert_eq!(value["max_us"], 200.0);
    }

    #[test]
    fn without_any_there_are_no_percentiles() {
        assert_eq!(Latencies::default().into_json()["p50_us"], Value::Null);
    }
}
