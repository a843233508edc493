//! Manifests: nothing panics, and whatever is refused is said so.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use weft_control::{Format, Severity, check_manifest};

fuzz_target!(|input: (bool, &[u8])| {
    let (is_json, bytes) = input;
    let format = if is_json { Format::Json } else { Format::Yaml };
    let problems = check_manifest(Path::new("manifest"), format, bytes);
    for problem in &problems {
        // A person must be able to find it and to act on it.
        assert!(!problem.message.is_empty());
        assert!(problem.line.is_none_or(|line| line >= 1));
        assert!(problem.file.is_some());
        assert!(problem.severity != Severity::Error || problem.suggestion.is_some(), "{problem}");
    }
    if std::str::from_utf8(bytes).is_err() {
        assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
    }
});
