//! The manifests of routes, `gateway.networking.k8s.io`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use crate::manifest::text::null_as_default;

/// An HTTPRoute, GRPCRoute, TLSRoute or TCPRoute, by its rules.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a route", bound = "R: Default + Deserialize<'de>")]
pub(crate) struct RouteManifest<R> {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: RouteSpec<R>,
    /// Written by controllers.
    #[serde(rename = "status")]
    _status: Option<Value>,
}

/// `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping", bound = "R: Default + Deserialize<'de>")]
pub(crate) struct RouteSpec<R> {
    #[serde(deserialize_with = "null_as_default")]
    pub parent_refs: Vec<ParentRefSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub hostnames: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub rules: Vec<R>,
    /// About Gateways at the edge of a cluster.
    #[serde(rename = "useDefaultGateways")]
    _use_default_gateways: Option<Value>,
}

/// One of `parentRefs`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct ParentRefSpec {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub section_name: Option<String>,
    pub port: Option<i32>,
}

/// One rule of an HTTPRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct HttpRuleSpec {
    pub name: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub matches: Vec<HttpMatchSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub filters: Vec<FilterSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub backend_refs: Vec<BackendRefSpec>,
    pub timeouts: Option<TimeoutsSpec>,
    pub retry: Option<RetrySpec>,
    pub session_persistence: Option<SessionSpec>,
}

/// One rule of a GRPCRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct GrpcRuleSpec {
    pub name: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub matches: Vec<GrpcMatchSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub filters: Vec<FilterSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub backend_refs: Vec<BackendRefSpec>,
    pub session_persistence: Option<SessionSpec>,
}

/// One rule of a TLSRoute or TCPRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct StreamRuleSpec {
    pub name: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub backend_refs: Vec<BackendRefSpec>,
}

/// One of an HTTP rule's `matches`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct HttpMatchSpec {
    pub path: Option<PathSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub headers: Vec<ValueSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub query_params: Vec<ValueSpec>,
    pub method: Option<String>,
}

/// `path` of a match.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct PathSpec {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub value: Option<String>,
}

/// One of a match's `headers` or `queryParams`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct ValueSpec {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub name: String,
    pub value: String,
}

/// One of a gRPC rule's `matches`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct GrpcMatchSpec {
    pub method: Option<GrpcMethodSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub headers: Vec<ValueSpec>,
}

/// `method` of a gRPC match.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct GrpcMethodSpec {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub service: Option<String>,
    pub method: Option<String>,
}

/// One of `filters`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct FilterSpec {
    #[serde(rename = "type")]
    pub kind: String,
    pub request_header_modifier: Option<HeaderEditsSpec>,
    pub response_header_modifier: Option<HeaderEditsSpec>,
    pub request_mirror: Option<MirrorSpec>,
    pub request_redirect: Option<RedirectSpec>,
    pub url_rewrite: Option<RewriteSpec>,
    pub cors: Option<CorsSpec>,
    /// Not served: the filter's type says so.
    #[serde(rename = "externalAuth")]
    _external_auth: Option<Value>,
    #[serde(rename = "extensionRef")]
    _extension_ref: Option<Value>,
}

/// `requestHeaderModifier` and `responseHeaderModifier`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct HeaderEditsSpec {
    #[serde(deserialize_with = "null_as_default")]
    pub set: Vec<HeaderSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub add: Vec<HeaderSpec>,
    #[serde(deserialize_with = "null_as_default")]
    pub remove: Vec<String>,
}

/// One header.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct HeaderSpec {
    pub name: String,
    pub value: String,
}

/// `requestMirror`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct MirrorSpec {
    pub backend_ref: ReferenceSpec,
    pub percent: Option<i32>,
    pub fraction: Option<FractionSpec>,
}

/// `fraction`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct FractionSpec {
    pub numerator: i32,
    pub denominator: Option<i32>,
}

/// `requestRedirect`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct RedirectSpec {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathRewriteSpec>,
    pub port: Option<i32>,
    pub status_code: Option<u16>,
}

/// `urlRewrite`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct RewriteSpec {
    pub hostname: Option<String>,
    pub path: Option<PathRewriteSpec>,
}

/// `path` of a redirection or rewrite.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct PathRewriteSpec {
    #[serde(rename = "type")]
    pub kind: String,
    pub replace_full_path: Option<String>,
    pub replace_prefix_match: Option<String>,
}

/// `cors`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct CorsSpec {
    #[serde(deserialize_with = "null_as_default")]
    pub allow_origins: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub allow_credentials: bool,
    #[serde(deserialize_with = "null_as_default")]
    pub allow_methods: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub allow_headers: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub expose_headers: Vec<String>,
    pub max_age: Option<i64>,
}

/// A reference to a backend.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct ReferenceSpec {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub port: Option<i32>,
}

/// One of `backendRefs`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct BackendRefSpec {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub port: Option<i32>,
    pub weight: Option<i32>,
    #[serde(deserialize_with = "null_as_default")]
    pub filters: Vec<FilterSpec>,
}

/// `timeouts`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct TimeoutsSpec {
    pub request: Option<String>,
    pub backend_request: Option<String>,
}

/// `retry`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct RetrySpec {
    #[serde(deserialize_with = "null_as_default")]
    pub codes: Vec<u16>,
    pub attempts: Option<i64>,
    pub backoff: Option<String>,
}

/// `sessionPersistence`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct SessionSpec {
    pub session_name: Option<String>,
    pub absolute_timeout: Option<String>,
    pub idle_timeout: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub cookie_config: Option<CookieSpec>,
}

/// `cookieConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct CookieSpec {
    pub lifetime_type: Option<String>,
}
