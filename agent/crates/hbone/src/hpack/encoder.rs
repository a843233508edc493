//! Fields to field blocks (RFC 7541, 6).

use super::{
    DEFAULT_TABLE_SIZE, integer,
    table::{Entry, Found, Table},
};

/// Encodes the field blocks of one connection.
///
/// A tunnel sends the same few fields again and again (the method, the source workload's baggage, mostly the same
/// authorities), and these go into the dynamic table. Strings are written plain: inside a cluster the bytes that
/// Huffman coding saves are cheaper than the cycles it takes.
pub(crate) struct Encoder {
    table: Table,
    /// Sizes to announce at the start of the next block: the smallest since the last one, and the current one
    /// (RFC 7541, 4.2).
    resized: Option<usize>,
}

/// Whether a field is worth remembering.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Indexing {
    /// It will be sent again.
    Repeated,
    /// It is unlike any other.
    Once,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { table: Table::new(), resized: None }
    }

    /// The peer's `SETTINGS_HEADER_TABLE_SIZE`. More than the default is not made use of.
    pub(crate) fn set_peer_limit(&mut self, size: u32) {
        let size = DEFAULT_TABLE_SIZE.min(size as usize);
        if size != self.table.max_size() {
            self.resized = Some(self.resized.unwrap_or(size).min(size));
            self.table.set_max_size(size);
        }
    }

    /// Begins a block: what must stand before the first field.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.resized.take() {
            if smallest < self.table.max_size() {
                integer::encode(out, 0x20, 5, smallest);
            }
            integer::encode(out, 0x20, 5, self.table.max_size());
        }
    }

    /// Appends one field to a block.
    pub(crate) fn field(&mut self, out: &mut Vec<u8>, name: &str, value: &str, indexing: Indexing) {
        if let Some(index) = static_index(name, value) {
            return integer::encode(out, 0x80, 7, index);
        }
        let name_index = match self.table.find(name.as_bytes(), value.as_bytes()) {
            Found::Field(index) => return integer::encode(out, 0x80, 7, index),
            Found::Name(index) => index,
            Found::Nothing => static_name_index(name),
        };
        match indexing {
            Indexing::Repeated => integer::encode(out, 0x40, 6, name_index),
            Indexing::Once => integer::encode(out, 0x00, 4, name_index),
        }
        if name_index == 0 {
            string(out, name);
        }
        string(out, value);
        if indexing == Indexing::Repeated {
            self.table.insert(Entry::new(name.as_bytes(), value.as_bytes()));
        }
    }
}

/// The fields of the static table that are sent here (RFC 7541, Appendix A).
fn static_index(name: &str, value: &str) -> Option<usize> {
    match (name, value) {
        (":status", "200") => Some(8),
        (":status", "400") => Some(12),
        (":status", "404") => Some(13),
        (":status", "500") => Some(14),
        _ => None,
    }
}

/// The names of the static table that are sent here, 0 for the others.
fn static_name_index(name: &str) -> usize {
    match name {
        ":authority" => 1,
        ":method" => 2,
        ":status" => 8,
        _ => 0,
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    integer::encode(out, 0x00, 7, text.len());
    out.extend_from_slice(text.as_bytes());
}
