//! What records and handshakes cost on one core: `cargo bench -p weft-transport`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey};
use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use weft_model::Identity;
use weft_runtime::{SystemClock, Tasks};
use weft_transport::{
    CertificateAuthority, CertificateOptions, Certificates, Content, Handshake, Progress, Sealer, Session, TlsIdentity,
};

/// Counts what is allocated, to tell what a session keeps.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: Everything is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: The caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: The caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    // Cargo passes `--bench`; a name limits the run to one part, for a profiler.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let (web, db) = identities();
    if wanted("handshakes") {
        handshakes(&web, &db);
    }
    if wanted("parts") {
        parts_of_a_handshake();
    }
    if wanted("records") {
        let (client, server) = session(&web, &db);
        println!("suite {}, group {}", client.suite, client.group);
        records(client, server);
        for (name, algorithm) in [("AES-128-GCM", &AES_128_GCM), ("AES-256-GCM", &AES_256_GCM)] {
            cipher(name, algorithm);
        }
    }
    if wanted("memory") {
        memory(&web, &db);
    }
}

/// Two identities with certificates of an embedded authority.
fn identities() -> (Arc<TlsIdentity>, Arc<TlsIdentity>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Arc::new(SystemClock);
    let authority = CertificateAuthority::open(directory.path(), "cluster.local", clock.clone()).expect("an authority");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tasks = Tasks::new();
        let certificates = Certificates::start(Arc::new(authority), CertificateOptions::default(), clock, &tasks)
            .expect("nothing to read");
        let [web, db] = ["web", "db"].map(identity);
        certificates.want(&web);
        certificates.want(&db);
        (certificates.ready(&web).await.expect("a certificate"), certificates.ready(&db).await.expect("a certificate"))
    })
}

fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).expect("a valid name")
}

fn session(web: &TlsIdentity, db: &TlsIdentity) -> (Session, Session) {
    let mut client = web.connect(vec![identity("db")]).expect("a valid certificate");
    let mut server = db.accept().expect("a valid certificate");
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let mut advance = |handshake: &mut Handshake, from_client: bool| {
        let (incoming, outgoing) =
            if from_client { (&mut to_server, &mut to_client) } else { (&mut to_client, &mut to_server) };
        match handshake.advance(incoming, outgoing).expect("a handshake that works") {
            Progress::Continue => None,
            Progress::Done(session) => Some(session),
        }
    };
    advance(&mut client, false);
    advance(&mut server, true);
    let client = advance(&mut client, false).expect("the client may send");
    let server = advance(&mut server, true).expect("the client is verified");
    (client, server)
}

fn handshakes(web: &TlsIdentity, db: &TlsIdentity) {
    let begin = ALLOCATIONS.load(Ordering::Relaxed);
    session(web, db);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - begin;
    let each = time(|| drop(black_box(session(web, db))));
    println!(
        "handshake, client and server: {:.0} us, {:.0}/s, {allocations} allocations",
        each.as_secs_f64() * 1e6,
        1.0 / each.as_secs_f64()
    );
}

/// The arithmetic that no handshake can do without. Each side signs once, and verifies two signatures: the peer's
/// certificate's and the peer's own.
fn parts_of_a_handshake() {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("random numbers");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref()).expect("a key");
    let message = [7; 130];
    let signature = pair.sign(&random, &message).expect("a signature");
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key().as_ref());
    report("ECDSA P-256 sign (2 in a handshake)", || {
        black_box(pair.sign(&random, &message).expect("a signature"));
    });
    report("ECDSA P-256 verify (4)", || public.verify(&message, signature.as_ref()).expect("valid"));
    report("ML-KEM-768 key, encapsulate, decapsulate (1)", || {
        let key = DecapsulationKey::generate(&ML_KEM_768).expect("a key");
        let (ciphertext, _) = key.encapsulation_key().expect("its key").encapsulate().expect("a secret");
        black_box(key.decapsulate(ciphertext).expect("the secret"));
    });
    report("X25519 key and agreement (2)", || {
        let key = EphemeralPrivateKey::generate(&agreement::X25519, &random).expect("a key");
        let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, [9; 32]);
        agreement::agree_ephemeral(key, peer, (), |secret| {
            black_box(secret);
            Ok(())
        })
        .expect("a secret");
    });
}

fn records(mut client: Session, mut server: Session) {
    for size in [1024, Sealer::MAX_PLAINTEXT] {
        let mut record = vec![1; Sealer::HEADER + size + Sealer::TRAILER];
        let begin = ALLOCATIONS.load(Ordering::Relaxed);
        let both = time(|| {
            client.sealer.seal(&mut record).expect("a record");
            let opened = server.opener.open(&mut record).expect("a record").expect("a whole one");
            assert!(matches!(opened.content, Content::Data(_)));
        });
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - begin;
        println!(
            "seal and open, {size} bytes: {:.2} GB/s through both, {:.0} ns a record, {allocations} allocations in all",
            size as f64 / both.as_secs_f64() / 1e9,
            both.as_secs_f64() * 1e9
        );
        if client.sealer.maintain(&mut Vec::new()).is_err() {
            return;
        }
    }
}

fn cipher(name: &str, algorithm: &'static Algorithm) {
    let key = UnboundKey::new(algorithm, &[3; 32][..algorithm.key_len()]).expect("its length");
    let key = LessSafeKey::new(key);
    for size in [1024, Sealer::MAX_PLAINTEXT] {
        let mut data = vec![1; size];
        let each = time(|| {
            let nonce = Nonce::assume_unique_for_key([5; 12]);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut data).expect("a length");
            black_box(tag.as_ref());
        });
        println!("{name}, {size} bytes: {:.2} GB/s", size as f64 / each.as_secs_f64() / 1e9);
    }
}

fn memory(web: &TlsIdentity, db: &TlsIdentity) {
    const PAIRS: usize = 2000;
    let mut kept = Vec::with_capacity(PAIRS);
    kept.push(session(web, db));
    let (heap, resident) = (ALLOCATED.load(Ordering::Relaxed), resident_bytes());
    kept.extend((1..PAIRS).map(|_| session(web, db)));
    let sessions = 2 * (PAIRS - 1);
    println!(
        "a session: {} bytes, {} of Rust's heap, {} resident in all",
        size_of::<Session>(),
        (ALLOCATED.load(Ordering::Relaxed) - heap) / sessions,
        (resident_bytes() - resident) / sessions
    );
    let heap = ALLOCATED.load(Ordering::Relaxed);
    let handshake = web.connect(vec![identity("db")]).expect("a valid certificate");
    println!(
        "a handshake that has not begun: {} bytes, {} of Rust's heap",
        size_of::<Handshake>(),
        ALLOCATED.load(Ordering::Relaxed) - heap
    );
    drop(handshake);
}

/// Memory of this process: the second field of its `statm`, in pages.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages = statm.split(' ').nth(1).and_then(|field| field.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

fn report(name: &str, work: impl FnMut()) {
    println!("{name}: {:.1} us", time(work).as_secs_f64() * 1e6);
}

/// The least of several averages of processor time: other work on the machine only ever adds.
fn time(mut work: impl FnMut()) -> Duration {
    const ROUND: Duration = Duration::from_millis(250);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let (begin, spent) = (Instant::now(), processor_time());
        let mut times = 0;
        while begin.elapsed() < ROUND {
            work();
            times += 1;
        }
        best = best.min((processor_time() - spent) / times);
    }
    best
}

/// What this thread has used so far: the first field of its `schedstat`, in nanoseconds.
fn processor_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel with schedstat");
    let spent = schedstat.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(spent.expect("a number of nanoseconds"))
}
