//! The static and the dynamic table, and their common index space (RFC 7541, 2.3).

use std::collections::VecDeque;

use super::DEFAULT_TABLE_SIZE;

/// RFC 7541, Appendix A. Index 1 is the first entry.
#[rustfmt::skip]
static STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// RFC 7541, 4.1: what a field counts for in the size of a table, and, by RFC 9113, 6.5.2, of a header list.
pub(crate) fn field_size(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + 32
}

/// The fields that both sides remember, newest first.
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max_size: usize,
}

pub(super) struct Entry {
    /// The name and then the value.
    bytes: Box<[u8]>,
    name_len: usize,
}

impl Entry {
    pub(super) fn new(name: &[u8], value: &[u8]) -> Self {
        Self { bytes: [name, value].concat().into(), name_len: name.len() }
    }

    fn field(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.name_len)
    }

    fn size(&self) -> usize {
        self.bytes.len() + 32
    }
}

/// Where [`Table::find`] found a field.
pub(super) enum Found {
    /// The field itself has this index.
    Field(usize),
    /// A field of the same name has this index.
    Name(usize),
    /// No field of this name is remembered.
    Nothing,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, max_size: DEFAULT_TABLE_SIZE }
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    /// The field at an index of the common index space; `None` for 0 and beyond the end (RFC 7541, 2.3.3).
    pub(super) fn field(&self, index: usize) -> Option<(&[u8], &[u8])> {
        match STATIC.get(index.checked_sub(1)?) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.entries.get(index - 1 - STATIC.len()).map(Entry::field),
        }
    }

    /// Looks a field up in the dynamic table. Linear: the table holds few entries, of differing lengths.
    pub(super) fn find(&self, name: &[u8], value: &[u8]) -> Found {
        let mut found = Found::Nothing;
        for (at, entry) in self.entries.iter().enumerate() {
            let (entry_name, entry_value) = entry.field();
            if entry_name == name {
                if entry_value == value {
                    return Found::Field(1 + STATIC.len() + at);
                }
                found = Found::Name(1 + STATIC.len() + at);
            }
        }
        found
    }

    /// RFC 7541, 4.4: an entry larger than the table empties it, and is no error.
    pub(super) fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        if size > self.max_size {
            self.evict_down_to(0);
            return;
        }
        self.evict_down_to(self.max_size - size);
        self.size += size;
        self.entries.push_front(entry);
    }

    /// RFC 7541, 4.3.
    pub(super) fn set_max_size(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict_down_to(max_size);
    }

    fn evict_down_to(&mut self, size: usize) {
        while self.size > size {
            let evicted = self.entries.pop_back().expect("an empty table has size 0");
            self.size -= evicted.size();
        }
    }
}
