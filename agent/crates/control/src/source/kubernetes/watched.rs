//! An object as a watch brings it.
//!
//! It stays the text that it came as, until it is read for what it is: half of what an API server says of an object is of
//! no use here, who wrote which field above all. To make a tree of all that, and of the tree another one, took more of a
//! start's time than everything else.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{ApiResource, DynamicObject};
use kube::core::DynamicResourceScope;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::manifest::text::Text;

/// An object, and of its metadata what tells it from others.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    metadata: ObjectMeta,
    text: Box<RawValue>,
}

/// What is looked at before anything else.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    metadata: HeadMetadata<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    namespace: Option<Text<'a>>,
    #[serde(borrow)]
    resource_version: Option<Text<'a>>,
}

impl Watched {
    /// What an API server has answered otherwise. `None`: it cannot be written down.
    pub(super) fn of(object: &DynamicObject) -> Option<Self> {
        Self::new(to_raw_value(object).ok()?).ok()
    }

    fn new(text: Box<RawValue>) -> Result<Self, serde_json::Error> {
        let Head { metadata } = serde_json::from_str(text.get())?;
        let own = |text: Option<Text<'_>>| text.map(|text| text.to_string());
        let metadata = ObjectMeta {
            name: own(metadata.name),
            namespace: own(metadata.namespace),
            resource_version: own(metadata.resource_version),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, text })
    }

    /// All of it, in JSON.
    pub(super) fn text(&self) -> &str {
        self.text.get()
    }
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Box::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Resource for Watched {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt as _;
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    #[test]
    fn events_and_lists_bring_objects_as_they_were_written() {
        let text =
            r#"{"metadata":{"name":"a","namespace":"shop","resourceVersion":"7","managedFields":[{"x":1}]},"new":1}"#;
        let event = format!(r#"{{"type":"MODIFIED","object":{text}}}"#);
        let Ok(WatchEvent::Modified(object)) = serde_json::from_str::<WatchEvent<Watched>>(&event) else {
            panic!("an object has changed")
        };
        assert_eq!(object.text(), text);
        assert_eq!((object.name_any(), object.namespace()), ("a".to_owned(), Some("shop".to_owned())));
        assert_eq!(object.resource_version().as_deref(), Some("7"));
        let list =
            format!(r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"9"}},"items":[{text}]}}"#);
        let list: ObjectList<Watched> = serde_json::from_str(&list).expect("a list");
        assert_eq!(list.items[0].text(), text);
        let bookmark =
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"8"}}}"#;
        assert!(matches!(serde_json::from_str::<WatchEvent<Watched>>(bookmark), Ok(WatchEvent::Bookmark(_))));
    }
}
