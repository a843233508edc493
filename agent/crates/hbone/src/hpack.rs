//! Header compression (RFC 7541): a complete decoder, and an encoder that repeats what a tunnel repeats.

mod decoder;
mod encoder;
mod huffman;
mod integer;
mod table;

pub(crate) use self::{
    decoder::{Decoder, DecoderError},
    encoder::{Encoder, Indexing},
    table::field_size,
};

/// RFC 7541, 4.2 and RFC 9113, 6.5.2: the size of both sides' dynamic tables until SETTINGS say otherwise.
const DEFAULT_TABLE_SIZE: usize = 4096;
