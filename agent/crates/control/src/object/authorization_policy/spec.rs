//! The manifest of an AuthorizationPolicy, `security.istio.io/v1`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use crate::manifest::text::null_as_default;

/// An AuthorizationPolicy.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "an AuthorizationPolicy")]
pub(crate) struct PolicyManifest {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    pub spec: PolicySpec,
    /// Written by a control plane.
    #[serde(rename = "status")]
    _status: Option<Value>,
}

/// `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct PolicySpec {
    pub selector: Option<SelectorSpec>,
    pub target_ref: Option<TargetRefSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub target_refs: Vec<TargetRefSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub rules: Vec<RuleSpec>,
    pub action: Option<String>,
    #[serde(rename = "provider")]
    _provider: Option<Value>,
}

/// `spec.selector`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct SelectorSpec {
    #[serde(deserialize_with = "null_as_default")]
    pub match_labels: BTreeMap<String, String>,
}

/// One of `spec.targetRefs`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct TargetRefSpec {
    #[serde(deserialize_with = "null_as_default")]
    pub group: String,
    pub kind: String,
    pub name: String,
    pub namespace: Option<String>,
}

/// One of `spec.rules`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct RuleSpec {
    pub from: Option<Vec<FromSpec>>,
    pub to: Option<Vec<ToSpec>>,
    pub when: Option<Vec<ConditionSpec>>,
}

/// One of a rule's `from`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct FromSpec {
    pub source: Option<SourceSpec>,
}

/// A list that may be absent, empty or `null`: all mean that there is no such condition.
type Values = Option<Vec<String>>;

/// `source`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct SourceSpec {
    pub principals: Values,
    pub not_principals: Values,
    pub request_principals: Values,
    pub not_request_principals: Values,
    pub namespaces: Values,
    pub not_namespaces: Values,
    pub service_accounts: Values,
    pub not_service_accounts: Values,
    pub ip_blocks: Values,
    pub not_ip_blocks: Values,
    pub remote_ip_blocks: Values,
    pub not_remote_ip_blocks: Values,
}

/// One of a rule's `to`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct ToSpec {
    pub operation: Option<OperationSpec>,
}

/// `operation`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct OperationSpec {
    pub hosts: Values,
    pub not_hosts: Values,
    pub ports: Values,
    pub not_ports: Values,
    pub methods: Values,
    pub not_methods: Values,
    pub paths: Values,
    pub not_paths: Values,
}

/// One of a rule's `when`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct ConditionSpec {
    pub key: String,
    pub values: Values,
    pub not_values: Values,
}
