//! The maps, all pinned by the agent and shared by all programs of a node.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, SkStorage, SockHash};
use aya_ebpf::helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get};
use aya_ebpf::macros::btf_map;
use weft_common::{Address, Listener, Pod, Prefix, Published, Settings, Socket, TUPLES as TUPLE_COUNT, Tuple};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Captured pods by the cookie of their network namespace.
#[btf_map]
static PODS: HashMap<u64, Pod, 8192, ON_DEMAND> = HashMap::new();

/// The captured pod that has an address, for probes.
#[btf_map]
static POD_OF_ADDRESS: HashMap<Address, u64, 32768, ON_DEMAND> = HashMap::new();

/// Where new connections of a pod are handed to.
#[btf_map]
static LISTENERS: SockHash<Listener, 65536> = SockHash::new();

/// The ranges that can hold destinations in the mesh.
#[btf_map]
static RANGES: LpmTrie<Address, u32, 65536> = LpmTrie::new();

/// Addresses inside the ranges that are known to be outside the mesh.
#[btf_map]
static OUTSIDE: LruHashMap<Address, u32, 16384> = LruHashMap::new();

/// Connections between `connect` and `accept`. When a pod fills it with connections that never come about, the oldest
/// are given up, which are its own: those of others live for microseconds.
#[btf_map]
static TUPLES: LruHashMap<Tuple, Published, TUPLE_COUNT> = LruHashMap::new();

/// What is remembered of each socket.
#[btf_map]
static SOCKETS: SkStorage<Socket> = SkStorage::new();

/// What can change while the programs run.
#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();

#[inline(always)]
pub fn pod(netns: u64) -> Option<&'static Pod> {
    // SAFETY: the agent replaces whole values, and a torn read of one could at worst misjudge a connection that is
    // made while the pod's addresses change.
    unsafe { PODS.get(netns) }
}

#[inline(always)]
pub fn pod_of_address(address: &Address) -> Option<u64> {
    // SAFETY: the value is one aligned word.
    unsafe { POD_OF_ADDRESS.get(address) }.copied()
}

/// True if a connection to `address` may concern the mesh.
#[inline(always)]
pub fn may_be_in_mesh(address: &Address) -> bool {
    let exactly = Prefix { length: 128, address: *address };
    // SAFETY: both have the same layout; aya's is packed, so that it would be filled byte by byte.
    let key = unsafe { &*core::ptr::from_ref(&exactly).cast::<Key<Address>>() };
    RANGES.get(key).is_some() && OUTSIDE.get_ptr(address).is_none()
}

#[inline(always)]
pub fn listeners() -> &'static SockHash<Listener, 65536> {
    &LISTENERS
}

/// Publishes what the accepting end of a connection needs. False when there is no memory.
#[inline(always)]
pub fn publish(tuple: &Tuple, published: &Published) -> bool {
    // An entry of the same tuple can only be what an earlier connection left: overwrite it.
    TUPLES.insert(tuple, published, 0).is_ok()
}

/// What was published under the tuple.
#[inline(always)]
pub fn published(tuple: &Tuple) -> Option<&'static Published> {
    // SAFETY: a value is written before its socket sends the SYN, and read only after that has arrived.
    unsafe { TUPLES.get(tuple) }
}

#[inline(always)]
pub fn is_published(tuple: &Tuple) -> bool {
    TUPLES.get_ptr(tuple).is_some()
}

/// Takes back what was published.
#[inline(always)]
pub fn retract(tuple: &Tuple) {
    // It may have been taken already.
    let _ = TUPLES.remove(tuple);
}

#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// What is remembered of a socket. `sk` must not be null.
#[inline(always)]
pub fn remembered(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    let map = core::ptr::from_ref(&SOCKETS).cast_mut().cast();
    // SAFETY: the verifier has seen that `sk` is a socket, and the storage lives as long as it, which the kernel holds
    // while the program runs.
    unsafe { bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0).cast::<Socket>().as_mut() }
}

/// Remembers something of a socket in place of what was. False when there is no memory.
#[inline(always)]
pub fn remember(sk: *mut bpf_sock, mut socket: Socket) -> bool {
    let map = core::ptr::from_ref(&SOCKETS).cast_mut().cast();
    let initial = core::ptr::from_mut(&mut socket).cast();
    // SAFETY: as in `remembered`; the initial value is copied.
    let stored = unsafe {
        bpf_sk_storage_get(map, sk.cast(), initial, BPF_SK_STORAGE_GET_F_CREATE.into()).cast::<Socket>().as_mut()
    };
    match stored {
        Some(stored) => {
            // The socket may have had one already, from an earlier `connect`. A plain assignment becomes a call that
            // copies byte by byte.
            let from = core::ptr::from_ref(&socket).cast::<u64>();
            let to = core::ptr::from_mut(stored).cast::<u64>();
            for word in 0..size_of::<Socket>() / 8 {
                // SAFETY: both are as long as a `Socket`, which is aligned to and made of whole words.
                unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
            }
            true
        }
        None => false,
    }
}

#[inline(always)]
pub fn forget(sk: *mut bpf_sock) {
    let map = core::ptr::from_ref(&SOCKETS).cast_mut().cast();
    // SAFETY: as in `remembered`. That there is nothing to forget is no failure.
    unsafe { bpf_sk_storage_delete(map, sk.cast()) };
}
