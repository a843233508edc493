//! Errors as the specification has them.

use std::fmt;

use serde_json::json;

/// Why a call failed, for whoever called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its number: those up to 99 are the specification's.
    pub code: u32,
    /// In one sentence.
    pub message: String,
    /// What else there is to say, or empty.
    pub details: String,
}

impl Failure {
    /// The configuration is of a version that is not spoken, or that does not have the command.
    pub const INCOMPATIBLE: u32 = 1;
    /// A variable is missing or wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Standard input cannot be read.
    pub const INPUT: u32 = 5;
    /// The configuration cannot be decoded.
    pub const DECODING: u32 = 6;
    /// The configuration is wrong.
    pub const CONFIGURATION: u32 = 7;
    /// It may work later.
    pub const TRY_AGAIN: u32 = 11;
    /// The agent could not take the pod over.
    pub const NOT_TAKEN_OVER: u32 = 100;
    /// The pod belongs to the mesh and is not captured.
    pub const NOT_CAPTURED: u32 = 101;

    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    pub(super) fn with(self, details: impl fmt::Display) -> Self {
        Self { details: details.to_string(), ..self }
    }

    /// The error in JSON, for standard output, in the version of the configuration.
    pub fn json(&self, version: &str) -> String {
        let mut error = json!({ "cniVersion": version, "code": self.code, "msg": self.message });
        if !self.details.is_empty() {
            error["details"] = self.details.as_str().into();
        }
        error.to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, "; {}", self.details) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_error_is_an_object_with_version_code_and_message() {
        let failure = Failure::new(Failure::TRY_AGAIN, "no \"agent\"").with("at\n/run");
        let error: Value = serde_json::from_str(&failure.json("1.0.0")).unwrap();
        let expected = json!({ "cniVersion": "1.0.0", "code": 11, "msg": "no \"agent\"", "details": "at\n/run" });
        assert_eq!(error, expected);
        let error: Value = serde_json::from_str(&Failure::new(7, "no").json("0.4.0")).unwrap();
        assert_eq!(error, json!({ "cniVersion": "0.4.0", "code": 7, "msg": "no" }));
    }
}
