//! Bytes that can be made and checked at any offset, so that neither end of a long stream has to keep it.

/// Fills `buffer` with the bytes of the stream that starts at `offset`.
pub fn fill(offset: u64, buffer: &mut [u8]) {
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let word = word(at / 8).to_le_bytes();
        let skip = (at % 8) as usize;
        let length = (8 - skip).min(rest.len());
        rest[..length].copy_from_slice(&word[skip..skip + length]);
        rest = &mut rest[length..];
        at += length as u64;
    }
}

/// Whether `bytes` are those of the stream at `offset`. Every offset has bytes of its own, so that lost, repeated and
/// reordered pieces are all found.
pub fn is_at(offset: u64, bytes: &[u8]) -> bool {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let word = word(at / 8).to_le_bytes();
        let skip = (at % 8) as usize;
        let length = (8 - skip).min(rest.len());
        if rest[..length] != word[skip..skip + length] {
            return false;
        }
        rest = &rest[length..];
        at += length as u64;
    }
    true
}

/// The mixing function of splitmix64.
fn word(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let mut whole = [0; 100];
        fill(3, &mut whole);
        for cut in 0..100 {
            let mut part = vec![0; 100 - cut];
            fill(3 + cut as u64, &mut part);
            assert_eq!(part, whole[cut..]);
            assert!(is_at(3 + cut as u64, &part));
        }
        assert!(!is_at(4, &whole));
    }
}
