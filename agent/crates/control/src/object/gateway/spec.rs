//! The manifests of Gateways and GatewayClasses, `gateway.networking.k8s.io/v1`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use crate::manifest::text::null_as_default;

/// A Gateway.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a Gateway")]
pub(crate) struct GatewayManifest {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    pub spec: GatewaySpec,
    /// Written by a controller.
    #[serde(rename = "status")]
    _status: Option<Value>,
}

/// `spec`. What says how Gateways at the edge of a cluster are set up has no meaning for a waypoint.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct GatewaySpec {
    pub gateway_class_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub listeners: Vec<ListenerSpec>,
    /// Read by who makes pods of it.
    #[serde(rename = "infrastructure")]
    _infrastructure: Option<Value>,
    #[serde(rename = "addresses")]
    _addresses: Option<Value>,
    #[serde(rename = "allowedListeners")]
    _allowed_listeners: Option<Value>,
    #[serde(rename = "tls")]
    _tls: Option<Value>,
    #[serde(rename = "backendTLS")]
    _backend_tls: Option<Value>,
    #[serde(rename = "defaultScope")]
    _default_scope: Option<Value>,
}

/// One of `spec.listeners`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct ListenerSpec {
    pub name: String,
    pub hostname: Option<String>,
    pub port: i32,
    pub protocol: String,
    pub allowed_routes: Option<AllowedRoutesSpec>,
    #[serde(rename = "tls")]
    _tls: Option<Value>,
}

/// `allowedRoutes`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct AllowedRoutesSpec {
    pub namespaces: Option<NamespacesSpec>,
    pub kinds: Option<Vec<KindSpec>>,
}

/// `allowedRoutes.namespaces`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct NamespacesSpec {
    pub from: Option<String>,
    pub selector: Option<LabelSelector>,
}

/// One of `allowedRoutes.kinds`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct KindSpec {
    pub group: Option<String>,
    pub kind: String,
}

/// A GatewayClass.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a GatewayClass")]
pub(crate) struct GatewayClassManifest {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    pub spec: GatewayClassSpec,
    /// Written by a controller.
    #[serde(rename = "status")]
    _status: Option<Value>,
}

/// `spec` of a GatewayClass.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct GatewayClassSpec {
    pub controller_name: String,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(rename = "parametersRef")]
    _parameters_ref: Option<Value>,
}
