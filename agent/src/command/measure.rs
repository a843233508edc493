//! Durations, sizes and numbers, short.

use std::time::Duration;

/// The two largest units that matter: `3d4h`, `2h5m`, `45s`, `120ms`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match () {
        () if days > 0 => format!("{days}d{hours}h"),
        () if hours > 0 => format!("{hours}h{minutes}m"),
        () if minutes > 0 => format!("{minutes}m{}s", seconds % 60),
        () if seconds > 0 => format!("{seconds}s"),
        () => format!("{}ms", duration.as_millis()),
    }
}

/// Bytes in the largest binary unit that leaves at least 1: `0B`, `1.5KiB`, `12.0GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be shown as 1024.0 of one unit is 1.0 of the next.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// A number of things: `1 file`, `2 files`.
pub(super) fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (milliseconds, text) in
            [(0, "0ms"), (999, "999ms"), (1000, "1s"), (61_000, "1m1s"), (3_600_000, "1h0m"), (90_000_000, "1d1h")]
        {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn counts() {
        assert_eq!([count(0, "file"), count(1, "policy"), count(2, "policy")], ["0 files", "1 policy", "2 policies"]);
    }

    #[test]
    fn sizes() {
        for (number, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (1024 * 1024 - 1, "1.0MiB"),
            (3 << 30, "3.0GiB"),
            (u64::MAX, "16.0EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
