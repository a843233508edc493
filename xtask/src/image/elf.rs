//! What a program says of the libraries that it needs, as far as an image must know: the ELF header and its program
//! headers, for 64 bits and little-endian, as on every machine that Weft is built for.

use anyhow::{Context, Result, ensure};

/// The type of the segment that names the program's loader.
const PT_INTERP: u32 = 3;

/// The loader that a program asks for. One that is linked statically asks for none.
///
/// # Errors
/// It is no such program, or cut short.
pub(super) fn interpreter(bytes: &[u8]) -> Result<Option<String>> {
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "this is no program of a 64-bit Linux");
    let [first, size, count] = [number(bytes, 32, 8)?, number(bytes, 54, 2)?, number(bytes, 56, 2)?];
    for index in 0..count {
        let offset =
            index.checked_mul(size).and_then(|offset| first.checked_add(offset)).context("a header is nowhere")?;
        let header = part(bytes, offset, size)?;
        if number(header, 0, 4)? == PT_INTERP as usize {
            let name = part(bytes, number(header, 8, 8)?, number(header, 32, 8)?)?;
            return Ok(Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
        }
    }
    Ok(None)
}

fn number(bytes: &[u8], offset: usize, length: usize) -> Result<usize> {
    Ok(part(bytes, offset, length)?.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn part(bytes: &[u8], offset: usize, length: usize) -> Result<&[u8]> {
    offset.checked_add(length).and_then(|end| bytes.get(offset..end)).context("it is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, and segments with a type, an offset and a length each.
    fn program(segments: &[(u32, u64, u64)], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = segments.len() as u8;
        for (kind, offset, length) in segments {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&offset.to_le_bytes());
            header[32..40].copy_from_slice(&length.to_le_bytes());
            bytes.extend(header);
        }
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn a_program_with_a_loader_is_told_from_one_without() {
        assert_eq!(interpreter(&program(&[(1, 0, 0)], b"")).unwrap(), None);
        let dynamic = program(&[(1, 0, 0), (PT_INTERP, 64 + 2 * 56, 6)], b"/ld.1\0");
        assert_eq!(interpreter(&dynamic).unwrap().as_deref(), Some("/ld.1"));
    }

    #[test]
    fn what_is_no_program_or_cut_short_is_an_error() {
        let cut = &program(&[(1, 0, 0)], b"")[..70];
        let beyond = program(&[(PT_INTERP, u64::MAX, 6)], b"");
        for bytes in [&b"#!/bin/sh\n"[..], b"\x7fELF\x02\x01", cut, &beyond] {
            assert!(interpreter(bytes).is_err());
        }
    }
}
