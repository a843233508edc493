//! Field blocks to fields (RFC 7541, 3 and 6).

use super::{
    DEFAULT_TABLE_SIZE, huffman, integer,
    table::{Entry, Table},
};

/// The peer's encoder and this decoder no longer agree: the connection must end with `COMPRESSION_ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecoderError {
    Truncated,
    IntegerOverflow,
    Huffman,
    UnknownIndex,
    /// Larger than our SETTINGS allow, or not at the beginning of a block.
    SizeUpdate,
    /// We reduced the table and the peer did not say that it followed.
    MissingSizeUpdate,
}

impl DecoderError {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Truncated => "a header block ends in the middle of a field",
            Self::IntegerOverflow => "a number in a header block is too large",
            Self::Huffman => "a string in a header block is not valid Huffman code",
            Self::UnknownIndex => "a header block refers to a field that was never sent",
            Self::SizeUpdate => "a header block resizes the dynamic table where or how it must not",
            Self::MissingSizeUpdate => "a header block does not resize the dynamic table although it had to",
        }
    }
}

/// Decodes the field blocks of one connection, in order.
pub(crate) struct Decoder {
    table: Table,
    /// The largest size that the peer may choose: ours once it acknowledged our SETTINGS.
    limit: usize,
    /// The table is larger than `limit`, so the next block must begin by reducing it (RFC 7541, 4.2).
    expects_size_update: bool,
    name_scratch: Vec<u8>,
    value_scratch: Vec<u8>,
}

impl Decoder {
    /// `announced`: the `SETTINGS_HEADER_TABLE_SIZE` that will be sent. Until it is acknowledged the default holds.
    pub(crate) fn new(announced: u32) -> Self {
        Self {
            table: Table::new(),
            limit: DEFAULT_TABLE_SIZE.max(announced as usize),
            expects_size_update: false,
            name_scratch: Vec::new(),
            value_scratch: Vec::new(),
        }
    }

    /// The peer acknowledged our SETTINGS (RFC 9113, 4.3.1).
    pub(crate) fn acknowledged(&mut self, announced: u32) {
        self.limit = announced as usize;
        self.expects_size_update = self.table.max_size() > self.limit;
    }

    /// Calls `visit` with the name and value of each field of a complete block.
    pub(crate) fn decode(&mut self, mut block: &[u8], mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), DecoderError> {
        let Self { table, limit, expects_size_update, name_scratch, value_scratch } = self;
        let mut at_start = true;
        while let Some(&first) = block.first() {
            // RFC 7541, 6.3: dynamic table size update.
            if first & 0xe0 == 0x20 {
                let size = integer::decode(&mut block, 5)?;
                if !at_start || size > *limit {
                    return Err(DecoderError::SizeUpdate);
                }
                table.set_max_size(size);
                *expects_size_update = false;
                continue;
            }
            if *expects_size_update {
                return Err(DecoderError::MissingSizeUpdate);
            }
            at_start = false;
            // RFC 7541, 6.1: indexed field.
            if first & 0x80 != 0 {
                let index = integer::decode(&mut block, 7)?;
                let (name, value) = table.field(index).ok_or(DecoderError::UnknownIndex)?;
                visit(name, value);
                continue;
            }
            // RFC 7541, 6.2.1: literal with incremental indexing; 6.2.2 and 6.2.3: without, and never indexed.
            let is_remembered = first & 0x40 != 0;
            let index = integer::decode(&mut block, if is_remembered { 6 } else { 4 })?;
            let field_name = match index {
                0 => string(&mut block, name_scratch)?,
                _ => table.field(index).ok_or(DecoderError::UnknownIndex)?.0,
            };
            let field_value = string(&mut block, value_scratch)?;
            visit(field_name, field_value);
            if is_remembered {
                // The name may be that of an entry which this one evicts, so it is copied before the table changes.
                let entry = Entry::new(field_name, field_value);
                table.insert(entry);
            }
        }
        Ok(())
    }
}

/// RFC 7541, 5.2: a string literal, borrowed from the block or unpacked into `scratch`.
fn string<'s, 'b: 's>(block: &mut &'b [u8], scratch: &'s mut Vec<u8>) -> Result<&'s [u8], DecoderError> {
    let is_huffman = block.first().ok_or(DecoderError::Truncated)? & 0x80 != 0;
    let length = integer::decode(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(DecoderError::Truncated)?;
    *block = rest;
    if !is_huffman {
        return Ok(text);
    }
    scratch.clear();
    huffman::decode(text, scratch)?;
    Ok(scratch)
}

#[cfg(test)]
mod tests;
