//! Integers with a prefix (RFC 7541, 5.1).

use super::DecoderError;

/// Reads an integer whose first byte has `prefix` bits for it, advancing `input`.
///
/// # Errors
/// When the input ends, or when the number takes more than four continuation bytes. That allows for 28 bits and then
/// some, far more than any index or length that can be valid here, and bounds both the value and the zeros before it.
pub(super) fn decode(input: &mut &[u8], prefix: u32) -> Result<usize, DecoderError> {
    let mask = (1u8 << prefix) - 1;
    let (first, mut rest) = input.split_first().ok_or(DecoderError::Truncated)?;
    let mut value = usize::from(first & mask);
    if first & mask == mask {
        let mut shift = 0;
        loop {
            let (byte, tail) = rest.split_first().ok_or(DecoderError::Truncated)?;
            rest = tail;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(DecoderError::IntegerOverflow);
            }
        }
    }
    *input = rest;
    Ok(value)
}

/// Appends an integer to `out`; the bits of `first` above the prefix tell what it is.
pub(super) fn encode(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        out.push(first | value as u8);
        return;
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_specifications_examples() {
        // RFC 7541, C.1.
        for (bytes, prefix, value) in [(&[0xea][..], 5, 10), (&[0xff, 0x9a, 0x0a], 5, 1337), (&[42], 8 - 1, 42)] {
            let mut input = bytes;
            assert_eq!(decode(&mut input, prefix), Ok(value));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        for prefix in 4..=7 {
            for value in (0..70_000).chain([1 << 20, (1 << 28) - 1, 1 << 28]) {
                let mut out = Vec::new();
                encode(&mut out, 0, prefix, value);
                assert_eq!(decode(&mut &out[..], prefix), Ok(value));
            }
        }
    }

    #[test]
    fn refuses_long_and_cut_integers() {
        let cases = [
            (&[][..], DecoderError::Truncated),
            (&[0x1f], DecoderError::Truncated),
            (&[0x1f, 0x80], DecoderError::Truncated),
            (&[0x1f, 0x80, 0x80, 0x80, 0x80, 0x00], DecoderError::IntegerOverflow),
            (&[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], DecoderError::IntegerOverflow),
        ];
        for (bytes, error) in cases {
            assert_eq!(decode(&mut &bytes[..], 5), Err(error), "{bytes:x?}");
        }
    }
}
