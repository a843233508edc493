//! The labels of a connection.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use weft_model::{Identity, Service, Workload};

/// Which end of a connection reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reporter {
    /// The agent of the pod that opened it.
    Source,
    /// The agent of the pod that accepts it.
    Destination,
    /// The waypoint that it passes.
    Waypoint,
}

/// How a connection was protected on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionSecurity {
    /// In a tunnel, both ends authenticated.
    MutualTls,
    /// Not at all.
    None,
    /// It failed before that was settled.
    Unknown,
}

/// Why a connection failed or ended; Istio's node proxy has the same values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ResponseFlags {
    /// It did not fail (`-`).
    #[default]
    None,
    /// An authorization policy denies it (`DENY`).
    Denied,
    /// The destination could not be reached: no endpoint, refused, timed out, reset (`CONNECT`).
    ConnectFailure,
    /// TLS could not be established: a certificate is wrong, or none was presented (`TLS_FAILURE`).
    TlsFailure,
    /// TLS was established and HTTP/2 was not, or the peer broke it (`H2_HANDSHAKE_FAILURE`).
    Http2Failure,
    /// The network seems to block it: a network policy on port 15008, say (`NETWORK_POLICY`).
    NetworkPolicy,
    /// There is no certificate of the workload to present (`IDENTITY_ERROR`).
    IdentityError,
    /// The peer's certificate has been revoked (`CERT_REVOKED`).
    CertificateRevoked,
}

impl Reporter {
    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Waypoint => "waypoint",
        }
    }
}

impl ConnectionSecurity {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => UNKNOWN,
        }
    }
}

impl ResponseFlags {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Denied => "DENY",
            Self::ConnectFailure => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::Http2Failure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertificateRevoked => "CERT_REVOKED",
        }
    }
}

/// What is known of a connection that is to be counted.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLabels<'a> {
    /// Who reports.
    pub reporter: Reporter,
    /// The workload that opened it, if it is known.
    pub source: Option<&'a Arc<Workload>>,
    /// The workload that accepts it, if it is known.
    pub destination: Option<&'a Arc<Workload>>,
    /// The source's identity as its certificate proved it; none when in clear.
    pub source_identity: Option<&'a Identity>,
    /// The destination's identity as its certificate proved it; none when in clear.
    pub destination_identity: Option<&'a Identity>,
    /// The service that was addressed, if one was.
    pub service: Option<&'a Arc<Service>>,
    /// How it is protected.
    pub security: ConnectionSecurity,
    /// How it failed or ended; [`ResponseFlags::None`] while it lives.
    pub flags: ResponseFlags,
}

const UNKNOWN: &str = "unknown";

/// A label's text; empty for one that is missing.
type Text = Option<Arc<str>>;

/// One end of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct End {
    workload: Text,
    namespace: Text,
    principal: Option<Identity>,
    app: Text,
    version: Text,
    cluster: Text,
    canonical_service: Text,
    canonical_revision: Text,
    region: Text,
    zone: Text,
}

impl End {
    fn new(workload: Option<&Arc<Workload>>, identity: Option<&Identity>) -> Self {
        let mut end = Self { principal: identity.cloned(), ..Self::default() };
        if let Some(workload) = workload {
            end.workload = text(&workload.workload_name);
            end.namespace = text(&workload.namespace);
            end.app = text(&workload.app);
            end.version = text(&workload.version);
            end.cluster = text(&workload.cluster);
            end.canonical_service = text(&workload.canonical_service);
            end.canonical_revision = text(&workload.canonical_revision);
            end.region = text(&workload.locality.region);
            end.zone = text(&workload.locality.zone);
        } else if let Some(identity) = identity {
            // A peer that discovery has not told of yet has still proved its namespace.
            end.namespace = text(&identity.namespace().into());
        }
        end
    }
}

fn text(value: &Arc<str>) -> Text {
    (!value.is_empty()).then(|| Arc::clone(value))
}

/// The labels of one series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::telemetry) struct Labels {
    reporter: Reporter,
    source: End,
    destination: End,
    service: Text,
    service_name: Text,
    service_namespace: Text,
    security: ConnectionSecurity,
    flags: ResponseFlags,
}

impl Labels {
    pub(in crate::telemetry) fn new(labels: &ConnectionLabels<'_>) -> Self {
        Self {
            reporter: labels.reporter,
            source: End::new(labels.source, labels.source_identity),
            destination: End::new(labels.destination, labels.destination_identity),
            service: labels.service.and_then(|service| text(&service.hostname)),
            service_name: labels.service.and_then(|service| text(&service.name)),
            service_namespace: labels.service.and_then(|service| text(&service.namespace)),
            security: labels.security,
            flags: labels.flags,
        }
    }

    /// The same without anything whose number has no bound.
    pub(in crate::telemetry) fn without_names(self) -> Self {
        Self {
            source: End::default(),
            destination: End::default(),
            service: None,
            service_name: None,
            service_namespace: None,
            ..self
        }
    }

    /// Namespace and name of the workloads that are named.
    pub(super) fn workloads(&self) -> impl Iterator<Item = (&str, &str)> {
        [&self.source, &self.destination]
            .into_iter()
            .filter_map(|end| Some((end.namespace.as_deref()?, end.workload.as_deref()?)))
    }

    /// The key of the service that is named.
    pub(super) fn service_key(&self) -> Option<String> {
        let (namespace, hostname) = (self.service_namespace.as_deref()?, self.service.as_deref()?);
        Some(format!("{namespace}/{hostname}"))
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.encode_with(encoder, &[("request_protocol", "tcp"), ("response_flags", self.flags.as_str())])
    }
}

impl Labels {
    /// What all families have, and `others`.
    pub(in crate::telemetry) fn encode_with(
        &self,
        encoder: &mut LabelSetEncoder<'_>,
        others: &[(&str, &str)],
    ) -> fmt::Result {
        let mut label = |name: &str, value: Option<&str>| -> fmt::Result {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            key.write_str(name)?;
            let mut text = key.encode_label_value()?;
            text.write_str(value.unwrap_or(UNKNOWN))?;
            text.finish()
        };
        label("reporter", Some(self.reporter.as_str()))?;
        let ends: [(&End, [&str; 10]); 2] = [(&self.source, SOURCE_LABELS), (&self.destination, DESTINATION_LABELS)];
        for (end, names) in ends {
            let values = [
                end.workload.as_deref(),
                end.namespace.as_deref(),
                end.principal.as_ref().map(|identity| &**identity.uri()),
                end.app.as_deref(),
                end.version.as_deref(),
                end.cluster.as_deref(),
                end.canonical_service.as_deref(),
                end.canonical_revision.as_deref(),
                end.region.as_deref(),
                end.zone.as_deref(),
            ];
            for (name, value) in names.into_iter().zip(values) {
                label(name, value)?;
            }
        }
        label("destination_service", self.service.as_deref())?;
        label("destination_service_name", self.service_name.as_deref())?;
        label("destination_service_namespace", self.service_namespace.as_deref())?;
        for (name, value) in others {
            label(name, Some(value))?;
        }
        label("connection_security_policy", Some(self.security.as_str()))
    }
}

const SOURCE_LABELS: [&str; 10] = [
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "source_region",
    "source_zone",
];

const DESTINATION_LABELS: [&str; 10] = [
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_region",
    "destination_zone",
];
