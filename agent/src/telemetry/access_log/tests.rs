use super::*;
use crate::telemetry::fixtures::{identity, service, workload};
use crate::telemetry::sink::tests::Memory;

fn record(direction: Direction) -> AccessRecord {
    AccessRecord {
        direction,
        source: AccessEnd {
            address: ([10, 0, 0, 1], 33388).into(),
            workload: Some(Arc::new(workload("curl", 1))),
            identity: Some(identity("curl")),
        },
        destination: AccessEnd {
            address: ([10, 0, 0, 2], 15008).into(),
            workload: Some(Arc::new(workload("web", 2))),
            identity: Some(identity("web")),
        },
        hbone_address: Some(([10, 0, 0, 2], 8080).into()),
        service: Some(Arc::new(service())),
        from_client: 80,
        to_client: 175,
        duration: Duration::from_micros(12_700),
        ended: SystemTime::UNIX_EPOCH + Duration::from_micros(1_714_816_745_028_709),
        is_established: true,
        error: None,
    }
}

fn write(format: LineFormat, record: &AccessRecord) -> String {
    let mut out = Vec::new();
    record.write(format, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn text_records_read_like_the_ecosystems() {
    assert_eq!(
        write(LineFormat::Text, &record(Direction::Inbound)),
        "2024-05-04T09:59:05.028709Z\tinfo\taccess\tconnection complete\t\
         src.addr=10.0.0.1:33388 src.workload=\"curl-1\" src.namespace=\"shop\" \
         src.identity=\"spiffe://cluster.local/ns/shop/sa/curl\" \
         dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:8080 dst.service=\"web.shop.svc.cluster.local\" \
         dst.workload=\"web-1\" dst.namespace=\"shop\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/web\" \
         direction=\"inbound\" bytes_sent=175 bytes_recv=80 duration=\"12ms\"\n"
    );
}

#[test]
fn json_records_have_the_same_fields_with_their_types() {
    let line = write(LineFormat::Json, &record(Direction::Outbound));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "time": "2024-05-04T09:59:05.028709Z", "level": "info", "scope": "access",
            "message": "connection complete",
            "src.addr": "10.0.0.1:33388", "src.workload": "curl-1", "src.namespace": "shop",
            "src.identity": "spiffe://cluster.local/ns/shop/sa/curl",
            "dst.addr": "10.0.0.2:15008", "dst.hbone_addr": "10.0.0.2:8080",
            "dst.service": "web.shop.svc.cluster.local", "dst.workload": "web-1", "dst.namespace": "shop",
            "dst.identity": "spiffe://cluster.local/ns/shop/sa/web",
            "direction": "outbound", "bytes_sent": 80, "bytes_recv": 175, "duration": "12ms",
        })
    );
}

#[test]
fn a_failure_says_why_and_leaves_out_what_is_not_known() {
    let failed = AccessRecord {
        source: AccessEnd { workload: None, identity: None, ..record(Direction::Inbound).source },
        destination: AccessEnd { identity: None, ..record(Direction::Inbound).destination },
        hbone_address: None,
        service: None,
        from_client: 0,
        to_client: 0,
        is_established: false,
        error: Some("denied by the policy shop/\"web\"".into()),
        ..record(Direction::Inbound)
    };
    assert_eq!(
        write(LineFormat::Text, &failed),
        "2024-05-04T09:59:05.028709Z\terror\taccess\tconnection failed\t\
         src.addr=10.0.0.1:33388 dst.addr=10.0.0.2:15008 dst.workload=\"web-1\" dst.namespace=\"shop\" \
         direction=\"inbound\" bytes_sent=0 bytes_recv=0 duration=\"12ms\" \
         error=\"denied by the policy shop/\\\"web\\\"\"\n"
    );
}

#[test]
fn everything_is_written_before_the_end() {
    let (memory, counters) = (Memory::default(), SinkCounters::default());
    let log = AccessLog::start(LineFormat::Json, memory.clone(), counters.clone()).unwrap();
    for _ in 0..500 {
        log.write(record(Direction::Outbound));
    }
    assert!(log.finish(Duration::from_secs(10)));
    assert_eq!(memory.text().lines().count(), 500);
    assert_eq!((counters.written.get(), counters.dropped.get()), (500, 0));
}

#[test]
fn a_log_that_is_off_takes_records_and_ends() {
    let log = AccessLog::off();
    assert!(!log.is_enabled());
    log.write(record(Direction::Outbound));
    assert!(log.finish(Duration::ZERO));
}
