//! The Huffman code of RFC 7541, 5.2 and Appendix B, decoded four bits at a time.

use super::DecoderError;

/// Length in bits of each symbol's code; the last is EOS. The code is canonical: among codes of one length the symbols
/// are in order, so the lengths determine it.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

const EOS: u16 = 256;
/// In [`NODES`]: this and what is above is a leaf, of symbol `value - LEAF`.
const LEAF: u16 = 256;
const UNSET: u16 = u16::MAX;

/// The code of each symbol, in its low bits.
const CODES: [u32; 257] = {
    let mut codes = [0; 257];
    let mut code = 0;
    let mut length = 1;
    while length <= 30 {
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] == length {
                codes[symbol] = code;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    codes
};

/// The code as a tree: what follows an inner node on a 0 and on a 1. Node 0 is the root. 257 leaves make 256 inner
/// nodes.
const NODES: [[u16; 2]; 256] = {
    let mut nodes = [[UNSET; 2]; 256];
    let mut used = 1;
    let mut symbol = 0;
    while symbol < 257 {
        let mut node = 0;
        let mut bit = LENGTHS[symbol];
        while bit > 0 {
            bit -= 1;
            let side = (CODES[symbol] >> bit & 1) as usize;
            if bit == 0 {
                nodes[node][side] = LEAF + symbol as u16;
            } else {
                if nodes[node][side] == UNSET {
                    nodes[node][side] = used;
                    used += 1;
                }
                node = nodes[node][side] as usize;
            }
        }
        symbol += 1;
    }
    nodes
};

/// What four bits do in the state of an inner node. No code is shorter than five bits, so at most one symbol ends.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    symbol: u8,
    effect: Effect,
}

#[derive(Clone, Copy, PartialEq)]
enum Effect {
    Nothing,
    Symbol,
    /// EOS was read, which no string may contain.
    Invalid,
}

static STEPS: [[Step; 16]; 256] = {
    let mut steps = [[Step { next: 0, symbol: 0, effect: Effect::Nothing }; 16]; 256];
    let mut state = 0;
    while state < 256 {
        let mut bits = 0;
        while bits < 16 {
            let mut step = Step { next: 0, symbol: 0, effect: Effect::Nothing };
            let mut node = state;
            let mut bit = 4;
            while bit > 0 {
                bit -= 1;
                let next = NODES[node][bits >> bit & 1];
                if next == LEAF + EOS {
                    step.effect = Effect::Invalid;
                    node = 0;
                } else if next >= LEAF {
                    step.symbol = (next - LEAF) as u8;
                    step.effect = Effect::Symbol;
                    node = 0;
                } else {
                    node = next as usize;
                }
            }
            step.next = node as u8;
            steps[state][bits] = step;
            bits += 1;
        }
        state += 1;
    }
    steps
};

/// The states in which a string may end: at most seven bits into a code, all of them ones, as EOS begins.
static MAY_END: [bool; 256] = {
    let mut may_end = [false; 256];
    let mut node = 0;
    let mut bits = 0;
    while bits < 8 {
        may_end[node] = true;
        node = NODES[node][1] as usize;
        bits += 1;
    }
    may_end
};

/// Appends the string that `input` encodes to `out`.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), DecoderError> {
    let mut state = 0u8;
    // The shortest code has five bits.
    out.reserve(input.len() * 8 / 5);
    for byte in input {
        for bits in [byte >> 4, byte & 15] {
            let step = STEPS[usize::from(state)][usize::from(bits)];
            match step.effect {
                Effect::Nothing => {}
                Effect::Symbol => out.push(step.symbol),
                Effect::Invalid => return Err(DecoderError::Huffman),
            }
            state = step.next;
        }
    }
    match MAY_END[usize::from(state)] {
        true => Ok(()),
        false => Err(DecoderError::Huffman),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            bits += &format!("{:0length$b}", CODES[usize::from(*byte)]);
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        (0..bits.len() / 8)
            .map(|at| u8::from_str_radix(&bits[at * 8..at * 8 + 8], 2).expect("eight binary digits"))
            .collect()
    }

    #[test]
    fn the_code_is_the_specifications() {
        // Appendix B: the first, the shortest, some from the middle, the last of each kind.
        let cases = [
            (0, 0x1ff8),
            (b' ' as usize, 0x14),
            (b'0' as usize, 0x0),
            (b'a' as usize, 0x3),
            (b'~' as usize, 0x1ffd),
            (128, 0xfffe6),
            (195, 0x7fff1),
            (255, 0x3ffffee),
            (256, 0x3fffffff),
        ];
        for (symbol, code) in cases {
            assert_eq!(CODES[symbol], code, "{symbol}");
        }
    }

    #[test]
    fn reads_the_specifications_examples() {
        // RFC 7541, C.4.1 and C.6.1.
        let cases: [(&[u8], &str); 3] = [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff], "www.example.com"),
            (&[0x64, 0x02], "302"),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
        ];
        for (bytes, text) in cases {
            let mut out = Vec::new();
            decode(bytes, &mut out).expect(text);
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn reads_every_byte_beside_every_byte() {
        for first in 0..=255 {
            let text: Vec<u8> = (0..=255).flat_map(|second| [first, second]).collect();
            let mut out = Vec::new();
            decode(&encode(&text), &mut out).expect("own encoding");
            assert_eq!(out, text);
        }
    }

    #[test]
    fn refuses_wrong_padding_and_eos() {
        let cases: [(&[u8], bool); 7] = [
            (&[], true),
            // '0' is 00000, padded with 111.
            (&[0b0000_0111], true),
            (&[0b0000_0110], false),
            (&[0b0000_0011], false),
            // Eight bits of padding.
            (&[0b0000_0111, 0xff], false),
            (&[0xff], false),
            (&[0xff, 0xff, 0xff, 0xff], false),
        ];
        for (bytes, is_valid) in cases {
            assert_eq!(decode(bytes, &mut Vec::new()).is_ok(), is_valid, "{bytes:x?}");
        }
    }
}
