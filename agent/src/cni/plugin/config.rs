//! The network's configuration, from standard input.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Failure;
use super::call::{Call, is_container_id};

/// The versions of the specification in which plug-ins are chained.
pub(in crate::cni) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The network's configuration with what `weft-cni` is told in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfig {
    /// The version that is spoken.
    pub cni_version: String,
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// What the plug-in before reported, untouched: it is passed on as it came.
    #[serde(default)]
    pub prev_result: Option<Box<RawValue>>,
    /// The agent's admin socket. What is remembered is kept beside it.
    #[serde(default)]
    pub admin_socket: PathBuf,
    /// A kubeconfig by which pods and namespaces can be read.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces whose pods never belong to the mesh, and never wait for it.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// A file to which a line is appended for each call.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// For GC: what the runtime still knows.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
}

/// What of a result says which addresses there are.
#[derive(Debug, Default, Deserialize)]
struct PreviousResult {
    #[serde(default)]
    ips: Option<Vec<PreviousAddress>>,
}

#[derive(Debug, Deserialize)]
struct PreviousAddress {
    address: String,
}

impl NetworkConfig {
    /// Decodes it.
    ///
    /// # Errors
    /// It is not what it should be, or of a version that is not spoken.
    pub fn read(json: &[u8]) -> Result<Self, Failure> {
        let version = version(json)?;
        if !VERSIONS.contains(&version.as_str()) {
            let message = format!("CNI version {version:?} is not spoken, only {}", VERSIONS.join(", "));
            return Err(Failure::new(Failure::INCOMPATIBLE, message));
        }
        let config: Self = serde_json::from_slice(json).map_err(|error| undecodable(&error))?;
        if config.name.is_empty() {
            return Err(Failure::new(Failure::CONFIGURATION, "the network has no name"));
        }
        if !config.admin_socket.is_absolute() {
            let message = "adminSocket must be the absolute path of the agent's admin socket";
            return Err(Failure::new(Failure::CONFIGURATION, message));
        }
        Ok(config)
    }

    /// Whether this version of the specification has a command.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn allow(&self, call: &Call) -> Result<(), Failure> {
        let since = match call {
            Call::Check(_) => "0.4.0",
            Call::Status | Call::Gc => "1.1.0",
            Call::Add(_) | Call::Del(_) | Call::Version => return Ok(()),
        };
        // They stand in order, and the version is one of them.
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        if place(&self.cni_version) < place(since) {
            let message = format!("CNI version {} has no {}", self.cni_version, call.name());
            return Err(Failure::new(Failure::INCOMPATIBLE, message));
        }
        Ok(())
    }

    /// What the plug-in before reported, and the addresses in it.
    ///
    /// # Errors
    /// There is none: this plug-in only works behind others. Or it is not a result.
    pub fn previous(&self) -> Result<(&RawValue, Vec<IpAddr>), Failure> {
        let missing = || {
            let message = "there is no prevResult: weft-cni connects nothing by itself, and must stand behind another \
                           plug-in in the list";
            Failure::new(Failure::CONFIGURATION, message)
        };
        let raw = self.prev_result.as_deref().ok_or_else(missing)?;
        if !raw.get().starts_with('{') {
            return Err(Failure::new(Failure::DECODING, "prevResult is not an object"));
        }
        let result: PreviousResult = serde_json::from_str(raw.get()).map_err(|error| undecodable(&error))?;
        let address = |found: PreviousAddress| {
            // It is an address with the length of its prefix.
            let text = found.address.split('/').next().unwrap_or_default();
            let wrong = |_| Failure::new(Failure::DECODING, format!("prevResult has the address {:?}", found.address));
            text.parse().map_err(wrong)
        };
        let addresses = result.ips.unwrap_or_default().into_iter().map(address).collect::<Result<_, _>>()?;
        Ok((raw, addresses))
    }

    /// The containers that the runtime still knows.
    ///
    /// # Errors
    /// They are not given: an empty list would let everything go, a missing one is a mistake.
    pub(super) fn known(&self) -> Result<BTreeSet<String>, Failure> {
        let missing = || Failure::new(Failure::CONFIGURATION, "cni.dev/valid-attachments is missing");
        let attachments = self.valid_attachments.as_ref().ok_or_else(missing)?;
        if let Some(wrong) = attachments.iter().find(|attachment| !is_container_id(&attachment.container)) {
            let message = format!("cni.dev/valid-attachments has the container {:?}", wrong.container);
            return Err(Failure::new(Failure::CONFIGURATION, message));
        }
        Ok(attachments.iter().map(|attachment| attachment.container.clone()).collect())
    }
}

/// The version of a configuration, or of the question which there are.
///
/// # Errors
/// It is no configuration.
pub(super) fn version(json: &[u8]) -> Result<String, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        #[serde(default)]
        cni_version: Option<String>,
    }
    // An array could stand for a structure as well.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(Failure::new(Failure::DECODING, "the network configuration is not an object"));
    }
    let versioned: Versioned = serde_json::from_slice(json).map_err(|error| undecodable(&error))?;
    // The specification's first version had no such field.
    Ok(versioned.cni_version.filter(|version| !version.is_empty()).unwrap_or_else(|| "0.1.0".to_owned()))
}

fn undecodable(error: &serde_json::Error) -> Failure {
    Failure::new(Failure::DECODING, "the network configuration cannot be decoded").with(error)
}
