use super::*;
use crate::hpack::{Encoder, encoder::Indexing};

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, DecoderError> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoder.decode(block, |name, value| fields.push((text(name), text(value))))?;
    Ok(fields)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

#[test]
fn reads_the_specifications_requests() {
    // RFC 7541, C.3 (plain) and C.4 (Huffman): three blocks on one connection each.
    let series = [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ];
    for blocks in series {
        let mut decoder = Decoder::new(4096);
        let mut read = |block: &str| decode(&mut decoder, &hex(block)).expect(block);
        let common = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        assert_eq!(read(blocks[0]), owned(&common));
        assert_eq!(read(blocks[1]), owned(&[&common[..], &[("cache-control", "no-cache")]].concat()));
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        assert_eq!(read(blocks[2]), owned(&third));
    }
}

#[test]
fn evicts_as_in_the_specifications_responses() {
    // RFC 7541, C.5, with a table of 256 bytes.
    let mut decoder = Decoder::new(256);
    let first = "3fe1 01 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a \
                 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d";
    let fields = decode(&mut decoder, &hex(first)).expect("C.5.1");
    let mut expected = owned(&[
        (":status", "302"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ]);
    assert_eq!(fields, expected);
    // C.5.2: the new status pushes the old one out.
    let fields = decode(&mut decoder, &hex("4803 3330 37c1 c0bf")).expect("C.5.2");
    expected[0].1 = "307".to_owned();
    assert_eq!(fields, expected);
    assert_eq!(decode(&mut decoder, &[0xc2]), Err(DecoderError::UnknownIndex));
}

#[test]
fn refuses_broken_blocks() {
    use DecoderError::*;
    let cases: [(&str, DecoderError); 12] = [
        // Index 0 and an index beyond the tables (RFC 7541, 2.3.3 and 6.1).
        ("80", UnknownIndex),
        ("be", UnknownIndex),
        ("7e 01 61", UnknownIndex),
        ("ff 80 80 80 80 00", IntegerOverflow),
        ("40", Truncated),
        ("40 05 61", Truncated),
        ("40 01 61", Truncated),
        ("40 01 61 7f ff ff ff 7f", Truncated),
        ("40 81 00 01 61", Huffman),
        // A size update beyond the limit, and one after a field (RFC 7541, 4.2).
        ("3f e2 1f", SizeUpdate),
        ("82 20", SizeUpdate),
        ("3f", Truncated),
    ];
    for (block, error) in cases {
        assert_eq!(decode(&mut Decoder::new(4096), &hex(block)), Err(error), "{block}");
    }
    assert_eq!(decode(&mut Decoder::new(4096), &hex("3f e1 1f 20 3f e1 1f 82")).map(|fields| fields.len()), Ok(1));
}

#[test]
fn wants_a_reduction_of_the_table_confirmed() {
    let mut decoder = Decoder::new(1024);
    assert!(decode(&mut decoder, &[0x82]).is_ok(), "nothing was acknowledged yet");
    decoder.acknowledged(1024);
    assert_eq!(decode(&mut decoder, &[0x82]), Err(DecoderError::MissingSizeUpdate));
    assert_eq!(decode(&mut decoder, &hex("3f e1 1f 82")), Err(DecoderError::SizeUpdate));
    assert!(decode(&mut decoder, &hex("3f e1 07 82")).is_ok());
    assert!(decode(&mut decoder, &[0x82]).is_ok());
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(64);
    decoder.acknowledged(64);
    assert!(decode(&mut decoder, &hex("3f 21 40 01 61 01 62 be")).is_ok());
    // 33 bytes of value and a name of one do not fit into 64 with the overhead of 32.
    let mut block = hex("40 01 61 21");
    block.extend([b'x'; 33]);
    assert!(decode(&mut decoder, &block).is_ok());
    assert_eq!(decode(&mut decoder, &[0xbe]), Err(DecoderError::UnknownIndex));
}

#[test]
fn a_name_of_an_evicted_entry_stays_valid() {
    let mut decoder = Decoder::new(64);
    decoder.acknowledged(64);
    decode(&mut decoder, &hex("3f 21 40 03 616263 01 78")).expect("fits");
    // The name of entry 62, whose insertion evicts that very entry.
    let fields = decode(&mut decoder, &hex("7e 01 79 be")).expect("refers to the entry before it goes");
    assert_eq!(fields, owned(&[("abc", "y"), ("abc", "y")]));
}

#[test]
fn reads_what_the_encoder_writes() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut decoder = Decoder::new(4096);
    let mut encoder = Encoder::new();
    let long = "x".repeat(5000);
    for _ in 0..2000 {
        if rng.u8(..) < 20 {
            // Several changes between two blocks, of which the smallest counts as well.
            for _ in 0..rng.u8(1..4) {
                encoder.set_peer_limit(rng.u32(..6000));
            }
        }
        let fields: Vec<(String, String)> = (0..rng.usize(0..6))
            .map(|_| match rng.u8(0..6) {
                0 => (":status".to_owned(), rng.u16(200..600).to_string()),
                1 => (":method".to_owned(), "CONNECT".to_owned()),
                2 => (":authority".to_owned(), format!("10.0.0.{}:80", rng.u8(..))),
                3 => ("baggage".to_owned(), "k".repeat(rng.usize(0..300))),
                4 => (format!("x-{}", rng.u8(..)), String::new()),
                _ => ("x-long".to_owned(), long[..rng.usize(4000..5000)].to_owned()),
            })
            .collect();
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for (name, value) in &fields {
            let indexing = if rng.bool() { Indexing::Repeated } else { Indexing::Once };
            encoder.field(&mut block, name, value, indexing);
        }
        assert_eq!(decode(&mut decoder, &block), Ok(fields));
    }
}

#[test]
fn a_repeated_request_takes_few_bytes() {
    let mut encoder = Encoder::new();
    let mut write = |forwarded: &str| {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.field(&mut block, ":method", "CONNECT", Indexing::Repeated);
        encoder.field(&mut block, ":authority", "10.0.0.1:80", Indexing::Repeated);
        encoder.field(&mut block, "baggage", &"b".repeat(200), Indexing::Repeated);
        encoder.field(&mut block, "forwarded", forwarded, Indexing::Once);
        block.len()
    };
    assert!(write("for=1") > 200);
    assert_eq!(write("for=2"), 3 + 1 + 10 + 6);
}
