//! Durations as the Gateway API writes them (GEP-2257).

use std::time::Duration;

/// Reads a duration: up to four numbers of at most five digits, each with its unit `h`, `m`, `s` or `ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        parts += 1;
        if !matches!(digits, 1..=5) || parts > 4 {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
        let (unit, milliseconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += Duration::from_millis(number * milliseconds);
    }
    (parts > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        let cases = [
            ("1h", Some(3_600_000)),
            ("30m", Some(1_800_000)),
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("0s", Some(0)),
            ("2h45m", Some(9_900_000)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("10s20s", Some(30_000)),
            ("99999h", Some(359_996_400_000)),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("100000s", None),
            ("1d", None),
            ("1us", None),
            ("1s 2s", None),
            ("1h1m1s1ms1ms", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }
}
