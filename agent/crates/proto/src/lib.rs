//! Messages and gRPC services of the protocols that Weft speaks.
//!
//! The `.proto` files in the folder `proto` describe, in our words, what other programs put on the wire: names, numbers
//! and types are theirs, fields that Weft has no use for are left out and skipped when they arrive. This crate knows
//! nothing of what the messages mean.
#![forbid(unsafe_code)]

/// Discovery, as Envoy defined it: the delta variant, for all types of resources over one stream.
pub mod discovery {
    #![expect(
        missing_docs,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        reason = "generated; the .proto files describe the fields"
    )]
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// Istio's description of workloads and services for agents at layer 4.
pub mod workload {
    #![expect(missing_docs, reason = "generated; the .proto files describe the fields")]
    tonic::include_proto!("istio.workload");
}

/// Istio's description of authorization policies for agents at layer 4.
pub mod security {
    #![expect(missing_docs, reason = "generated; the .proto files describe the fields")]
    tonic::include_proto!("istio.security");
}

/// Istio's certificate service.
pub mod certificate {
    #![expect(
        missing_docs,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        reason = "generated; the .proto files describe the fields"
    )]
    tonic::include_proto!("istio.v1.auth");
}

/// What Weft adds to Istio's descriptions, in their extensions.
pub mod extension {
    #![expect(missing_docs, reason = "generated; the .proto files describe the fields")]
    tonic::include_proto!("weft.discovery.v1");
}

/// What waypoints are told of routes.
pub mod route {
    #![expect(missing_docs, reason = "generated; the .proto files describe the fields")]
    tonic::include_proto!("weft.route.v1");
}
