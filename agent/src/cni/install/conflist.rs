//! Editing a network's configuration. It is somebody else's file: but for the entry every byte of it stays, so that it is
//! what it was when the entry is taken out again.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::cni::NAME;
use crate::cni::plugin::VERSIONS;

/// The plug-in's entry in a list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry(pub(super) Value);

/// The two forms that a configuration has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Plug-ins in a row, `*.conflist`.
    List,
    /// One plug-in alone, `*.conf` and `*.json`.
    Single,
}

/// What becomes of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Edited {
    /// It is as it should be.
    Same,
    /// It should be this.
    Changed(String),
}

/// A text that configures no network, or one that the plug-in cannot be in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotANetwork {
    /// It cannot be decoded.
    #[error("it is not the configuration of a network: {0}")]
    Undecodable(#[from] serde_json::Error),
    /// A field.
    #[error("it is not the configuration of a network: {0}")]
    Wrong(&'static str),
    /// The plug-in would refuse every pod.
    #[error("its CNI version {0} is not one in which weft-cni can be chained")]
    Version(String),
}

/// What is asked of either form. Its name and version alone are read as they are by libcni.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "cniVersion")]
    version: String,
    #[serde(default, rename = "cniVersions")]
    versions: Vec<String>,
}

#[derive(Deserialize)]
struct Plugin {
    #[serde(default, rename = "type")]
    kind: String,
}

impl Form {
    /// Whether a runtime would use this text, and it can have the entry.
    pub(super) fn check(self, text: &str) -> Result<(), NotANetwork> {
        let head: Head = serde_json::from_str(text)?;
        match self {
            Self::List => drop(Elements::read(text)?),
            Self::Single => {
                let plugin: Plugin = serde_json::from_str(text)?;
                if plugin.kind.is_empty() {
                    return Err(NotANetwork::Wrong("it names no plug-in"));
                }
                if plugin.kind == NAME {
                    return Err(NotANetwork::Wrong("it has no plug-ins"));
                }
            }
        }
        if head.name.is_empty() {
            return Err(NotANetwork::Wrong("it has no name"));
        }
        let one = (!head.version.is_empty() || head.versions.is_empty()).then_some(&head.version);
        match one.into_iter().chain(&head.versions).find(|version| !VERSIONS.contains(&version.as_str())) {
            Some(version) => Err(NotANetwork::Version(format!("{version:?}"))),
            None => Ok(()),
        }
    }
}

/// The elements of a list, by their places in its text.
struct Elements {
    /// Where each begins and ends, and whether it is ours.
    places: Vec<(usize, usize, bool)>,
}

impl Elements {
    fn read(text: &str) -> Result<Self, NotANetwork> {
        #[derive(Deserialize)]
        struct Borrowed<'a> {
            #[serde(borrow)]
            plugins: Vec<&'a RawValue>,
        }
        let list: Borrowed<'_> = serde_json::from_str(text)?;
        let mut places = Vec::with_capacity(list.plugins.len());
        for raw in list.plugins {
            let plugin: Plugin = serde_json::from_str(raw.get())?;
            if plugin.kind.is_empty() {
                return Err(NotANetwork::Wrong("a plug-in has no type"));
            }
            // The raw value is a part of the text.
            let start = raw.get().as_ptr() as usize - text.as_ptr() as usize;
            places.push((start, start + raw.get().len(), plugin.kind == NAME));
        }
        if places.iter().all(|(.., is_ours)| *is_ours) {
            return Err(NotANetwork::Wrong("it has no plug-ins"));
        }
        Ok(Self { places })
    }

    /// The text without ours, each of which goes with what separates it from the one before.
    fn without_ours(&self, text: &str) -> String {
        let (first, last) =
            (self.places.first().map_or(0, |place| place.0), self.places.last().map_or(0, |place| place.1));
        let mut kept = text[..first].to_owned();
        let mut end_of_previous = None;
        let mut is_first = true;
        for &(start, end, is_ours) in &self.places {
            if !is_ours {
                let from = if is_first { start } else { end_of_previous.unwrap_or(start) };
                kept.push_str(&text[from..end]);
                is_first = false;
            }
            end_of_previous = Some(end);
        }
        kept.push_str(&text[last..]);
        kept
    }
}

/// Puts the entry at the end of a list, once. One that stands elsewhere in it, as it should be, is left there: another
/// component that wants to be the last as well would else be fought.
pub(super) fn insert(text: &str, entry: &Entry) -> Result<Edited, NotANetwork> {
    let elements = Elements::read(text)?;
    let ours: Vec<_> = elements.places.iter().filter(|(.., is_ours)| *is_ours).collect();
    if let [(start, end, _)] = ours[..]
        && serde_json::from_str::<Value>(&text[*start..*end]).is_ok_and(|there| there == entry.0)
    {
        return Ok(Edited::Same);
    }
    let text = elements.without_ours(text);
    let elements = Elements::read(&text)?;
    let &(start, end, _) = elements.places.last().ok_or(NotANetwork::Wrong("it has no plug-ins"))?;
    // Set as the one before it is.
    let gap = &text[text[..start].trim_end().len()..start];
    Ok(Edited::Changed(format!("{},{gap}{}{}", &text[..end], entry.0, &text[end..])))
}

/// Takes the entry out of a list.
pub(super) fn remove(text: &str) -> Result<Edited, NotANetwork> {
    let elements = Elements::read(text)?;
    if elements.places.iter().all(|(.., is_ours)| !is_ours) {
        return Ok(Edited::Same);
    }
    Ok(Edited::Changed(elements.without_ours(text)))
}

/// The list of a single plug-in and the entry.
pub(super) fn wrap(text: &str, entry: &Entry) -> Result<String, NotANetwork> {
    let head: Head = serde_json::from_str(text)?;
    let (version, name) = (Value::from(head.version), Value::from(head.name));
    let plugin = text.trim();
    Ok(format!("{{\n\"cniVersion\": {version},\n\"name\": {name},\n\"plugins\": [\n{plugin},\n{}\n]\n}}\n", entry.0))
}

#[cfg(test)]
mod tests;
