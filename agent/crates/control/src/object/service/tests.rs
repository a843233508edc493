use super::*;

fn read(spec: &str) -> (Service, Vec<String>) {
    let json = format!(r#"{{"metadata":{{"name":"web"}},"spec":{spec}}}"#);
    let manifest: core::Service = serde_json::from_str(&json).expect("the test's JSON is valid");
    let mut notes = Notes::default();
    let service = Service::read(&manifest, &mut Interner::default(), &mut notes).expect("its name is valid");
    let fields = notes.fields().map(str::to_owned).collect();
    (service, fields)
}

#[test]
fn mistakes_name_their_field_and_the_rest_is_read() {
    let cases = [
        (r#"{"clusterIP":"x"}"#, "spec.clusterIP"),
        (r#"{"clusterIPs":["10.0.0.1","x"]}"#, "spec.clusterIPs[1]"),
        (r#"{"type":"Cluster"}"#, "spec.type"),
        (r#"{"internalTrafficPolicy":"Nearby"}"#, "spec.internalTrafficPolicy"),
        (r#"{"trafficDistribution":"Random"}"#, "spec.trafficDistribution"),
        (r#"{"sessionAffinity":"Cookie"}"#, "spec.sessionAffinity"),
        (
            r#"{"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":0}}}"#,
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        (r#"{"ports":[{"port":80},{"port":0}]}"#, "spec.ports[1].port"),
        (r#"{"ports":[{"port":80},{"port":80}]}"#, "spec.ports[1].port"),
        (r#"{"ports":[{"port":80},{"port":81,"targetPort":99999}]}"#, "spec.ports[1].targetPort"),
    ];
    for (spec, field) in cases {
        let (service, fields) = read(spec);
        assert_eq!(fields, [field], "{spec}");
        assert!(service.ports.len() <= 1, "{spec}");
    }
}

#[test]
fn the_protocol_is_declared_or_in_the_ports_name() {
    for (port, expected) in [
        (r#""name":"http""#, AppProtocol::Http),
        (r#""name":"grpc-api""#, AppProtocol::Grpc),
        (r#""name":"https""#, AppProtocol::Tls),
        (r#""name":"web""#, AppProtocol::Tcp),
        (r#""name":"http","appProtocol":"tcp""#, AppProtocol::Tcp),
        (r#""name":"web","appProtocol":"kubernetes.io/h2c""#, AppProtocol::Http2),
    ] {
        let (service, _) = read(&format!(r#"{{"ports":[{{"port":80,{port}}}]}}"#));
        assert_eq!(service.ports[0].app_protocol, expected, "{port}");
    }
}

#[test]
fn a_cluster_ip_of_none_makes_it_headless() {
    for (spec, expected) in [
        (r#"{"clusterIP":"None"}"#, ServiceKind::Headless),
        (r#"{"clusterIPs":["None"]}"#, ServiceKind::Headless),
        (r#"{"clusterIP":""}"#, ServiceKind::Virtual),
        (r#"{"type":"ExternalName","externalName":"x"}"#, ServiceKind::External),
        (r#"{"type":"LoadBalancer","clusterIP":"10.0.0.1"}"#, ServiceKind::Virtual),
    ] {
        assert_eq!(read(spec).0.kind, expected, "{spec}");
    }
}
