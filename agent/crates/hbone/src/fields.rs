//! From decoded fields to a request, a response or trailers, or to the verdict that they are malformed (RFC 9113, 8).

use std::borrow::Cow;

use crate::{
    hpack::{Decoder, DecoderError, field_size},
    streams::NO_CONTENT_LENGTH,
};

/// What a field block has to be, by the state of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Request,
    Response,
    Trailers,
    /// Whatever it is, it only keeps the compression state (RFC 9113, 4.3).
    Discarded,
}

/// The fields of one block that mean something here.
#[derive(Debug)]
pub(crate) struct Fields {
    expected: Expected,
    /// Size of the list so far, and the largest accepted (RFC 9113, 6.5.2).
    size: usize,
    limit: usize,
    malformed: Option<&'static str>,
    has_regular: bool,
    has_scheme: bool,
    has_path: bool,
    pub(crate) method: Option<Cow<'static, str>>,
    pub(crate) authority: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) baggage: Joined,
    pub(crate) forwarded: Joined,
    traceparent: Joined,
    pub(crate) content_length: u64,
}

/// A field that may come in several lines (RFC 9110, 5.3).
#[derive(Debug, Default)]
pub(crate) struct Joined {
    text: Option<String>,
    lines: usize,
    is_broken: bool,
}

impl Joined {
    fn add(&mut self, value: &[u8]) {
        self.lines += 1;
        match (std::str::from_utf8(value), &mut self.text) {
            (Err(_), _) => self.is_broken = true,
            (Ok(value), Some(text)) => {
                text.push_str(", ");
                text.push_str(value);
            }
            (Ok(value), text) => *text = Some(value.to_owned()),
        }
    }

    /// All lines, unless one of them is not text.
    pub(crate) fn take(&mut self) -> Option<String> {
        self.text.take().filter(|_| !self.is_broken)
    }
}

/// Why a block did not give what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// RFC 9113, 8.1.1.
    Malformed(&'static str),
    /// RFC 9113, 10.5.1.
    TooLarge,
}

impl Fields {
    /// Decodes a block. The outer error ends the connection.
    pub(crate) fn decode(
        decoder: &mut Decoder,
        block: &[u8],
        expected: Expected,
        limit: usize,
    ) -> Result<Result<Self, Refused>, DecoderError> {
        let mut fields = Self {
            expected,
            size: 0,
            limit,
            malformed: None,
            has_regular: false,
            has_scheme: false,
            has_path: false,
            method: None,
            authority: None,
            status: None,
            baggage: Joined::default(),
            forwarded: Joined::default(),
            traceparent: Joined::default(),
            content_length: NO_CONTENT_LENGTH,
        };
        decoder.decode(block, |name, value| fields.add(name, value))?;
        Ok(fields.verdict())
    }

    /// The `traceparent`, which must not come twice (W3C Trace Context, 3.2).
    pub(crate) fn take_traceparent(&mut self) -> Option<String> {
        if self.traceparent.lines == 1 { self.traceparent.take() } else { None }
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.size = self.size.saturating_add(field_size(name, value));
        // A reference to the dynamic table takes one byte and may stand for thousands, so once the verdict is certain
        // nothing more is looked at: the work for a block stays in proportion to its length.
        if self.size > self.limit || self.malformed.is_some() || self.expected == Expected::Discarded {
            return;
        }
        if let Err(reason) = self.examine(name, value) {
            self.malformed = Some(reason);
        }
    }

    fn examine(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        // RFC 9113, 8.2.1; control characters that it leaves to RFC 9110, 5.5 have no business here either.
        if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err("a header field's value has a control character in it");
        }
        if matches!(value.first(), Some(b' ' | b'\t')) || matches!(value.last(), Some(b' ' | b'\t')) {
            return Err("a header field's value begins or ends with a space");
        }
        match name.strip_prefix(b":") {
            Some(pseudo) => self.pseudo_field(pseudo, value),
            None => {
                self.has_regular = true;
                self.regular_field(name, value)
            }
        }
    }

    /// RFC 9113, 8.3.
    fn pseudo_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if self.has_regular {
            return Err("a pseudo-header field follows a regular field");
        }
        let is_repeated = match (self.expected, name) {
            // RFC 9113, 8.3.1.
            (Expected::Request, b"method") => {
                if value.is_empty() || !value.iter().all(|byte| is_token(*byte)) {
                    return Err("the method is not a token");
                }
                let method = match value {
                    b"CONNECT" => Cow::Borrowed("CONNECT"),
                    _ => Cow::Owned(ascii(value)),
                };
                self.method.replace(method).is_some()
            }
            (Expected::Request, b"authority") => {
                if !value.iter().all(u8::is_ascii_graphic) {
                    return Err("the authority is not printable ASCII");
                }
                self.authority.replace(ascii(value)).is_some()
            }
            (Expected::Request, b"scheme") => std::mem::replace(&mut self.has_scheme, true),
            (Expected::Request, b"path") => {
                if value.is_empty() {
                    return Err("the path is empty");
                }
                std::mem::replace(&mut self.has_path, true)
            }
            // RFC 9113, 8.3.2.
            (Expected::Response, b"status") => {
                let digits = <&[u8; 3]>::try_from(value).ok().filter(|digits| digits.iter().all(u8::is_ascii_digit));
                let digits = digits.ok_or("the status is not a three-digit number")?;
                let status = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
                if status < 100 {
                    return Err("the status is not a three-digit number");
                }
                self.status.replace(status).is_some()
            }
            // Among the unknown is `:protocol` (RFC 8441), which is valid only after SETTINGS that are never sent here.
            _ => return Err("an unexpected pseudo-header field"),
        };
        match is_repeated {
            true => Err("a pseudo-header field comes twice"),
            false => Ok(()),
        }
    }

    fn regular_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        // RFC 9113, 8.2.1.
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte) && !byte.is_ascii_uppercase()) {
            return Err("a header field's name is not a token in lower case");
        }
        match name {
            // RFC 9113, 8.2.2.
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
                return Err("a header field that is specific to a connection");
            }
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => {
                return Err("the field `te` with another value than `trailers`");
            }
            b"content-length" => {
                let length = std::str::from_utf8(value)
                    .ok()
                    .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                    .and_then(|text| text.parse().ok())
                    .ok_or("the content length is not a number")?;
                if self.content_length != NO_CONTENT_LENGTH && self.content_length != length {
                    return Err("two different content lengths");
                }
                self.content_length = length;
            }
            b"baggage" => self.baggage.add(value),
            b"forwarded" => self.forwarded.add(value),
            b"traceparent" => self.traceparent.add(value),
            _ => {}
        }
        Ok(())
    }

    fn verdict(self) -> Result<Self, Refused> {
        if self.expected == Expected::Discarded {
            return Ok(self);
        }
        if self.size > self.limit {
            return Err(Refused::TooLarge);
        }
        if let Some(reason) = self.malformed {
            return Err(Refused::Malformed(reason));
        }
        let missing = match (self.expected, self.method.as_deref()) {
            (Expected::Request, None) => Some("a request without a method"),
            // RFC 9113, 8.5.
            (Expected::Request, Some("CONNECT")) => {
                if self.has_scheme || self.has_path {
                    Some("a CONNECT with a scheme or a path")
                } else if self.authority.as_deref().is_none_or(str::is_empty) {
                    Some("a CONNECT without an authority")
                } else {
                    None
                }
            }
            (Expected::Request, Some(_)) => {
                (!self.has_scheme || !self.has_path).then_some("a request without scheme or path")
            }
            (Expected::Response, _) => match self.status {
                None => Some("a response without a status"),
                // RFC 9113, 8.6.
                Some(101) => Some("status 101, which HTTP/2 does not have"),
                Some(_) => None,
            },
            (Expected::Trailers | Expected::Discarded, _) => None,
        };
        match missing {
            Some(reason) => Err(Refused::Malformed(reason)),
            None => Ok(self),
        }
    }
}

/// RFC 9110, 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a field value may be sent (RFC 9113, 8.2.1).
pub(crate) fn is_field_value(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t')
        && !text.starts_with([' ', '\t'])
        && !text.ends_with([' ', '\t'])
}

fn ascii(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpack::{Encoder, Indexing};

    fn decode(expected: Expected, fields: &[(&str, &str)]) -> Result<Fields, Refused> {
        let mut block = Vec::new();
        let mut encoder = Encoder::new();
        for (name, value) in fields {
            encoder.field(&mut block, name, value, Indexing::Once);
        }
        Fields::decode(&mut Decoder::new(4096), &block, expected, 1000).expect("a sound block")
    }

    const CONNECT: (&str, &str) = (":method", "CONNECT");
    const AUTHORITY: (&str, &str) = (":authority", "10.0.0.1:80");
    const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];

    #[test]
    fn accepts_a_connect_with_its_fields() {
        let mut fields = decode(
            Expected::Request,
            &[
                AUTHORITY,
                CONNECT,
                ("baggage", "a=b"),
                ("forwarded", "for=a"),
                ("x-other", ""),
                ("te", "trailers"),
                ("baggage", "c=d"),
                ("traceparent", "00-1"),
            ],
        )
        .expect("well-formed");
        assert_eq!(fields.method.as_deref(), Some("CONNECT"));
        assert_eq!(fields.authority.as_deref(), Some("10.0.0.1:80"));
        assert_eq!(fields.baggage.take().as_deref(), Some("a=b, c=d"));
        assert_eq!(fields.forwarded.take().as_deref(), Some("for=a"));
        assert_eq!(fields.take_traceparent().as_deref(), Some("00-1"));
    }

    #[test]
    fn refuses_malformed_requests() {
        let cases: &[&[(&str, &str)]] = &[
            &[],
            &[AUTHORITY],
            &[CONNECT],
            &[CONNECT, (":authority", "")],
            &[CONNECT, (":authority", "a b:80")],
            &[CONNECT, (":authority", "ä:80")],
            &[CONNECT, AUTHORITY, AUTHORITY],
            &[CONNECT, CONNECT, AUTHORITY],
            &[CONNECT, AUTHORITY, (":path", "/")],
            &[CONNECT, AUTHORITY, (":scheme", "http")],
            &[CONNECT, AUTHORITY, (":protocol", "websocket")],
            &[CONNECT, AUTHORITY, (":status", "200")],
            &[CONNECT, AUTHORITY, (":", "x")],
            &[CONNECT, ("baggage", "a=b"), AUTHORITY],
            &[CONNECT, AUTHORITY, ("Baggage", "a=b")],
            &[CONNECT, AUTHORITY, ("", "a")],
            &[CONNECT, AUTHORITY, ("a b", "a")],
            &[CONNECT, AUTHORITY, ("a:b", "a")],
            &[CONNECT, AUTHORITY, ("ä", "a")],
            &[CONNECT, AUTHORITY, ("a", "a\nb: c")],
            &[CONNECT, AUTHORITY, ("a", "a\rb")],
            &[CONNECT, AUTHORITY, ("a", "a\0b")],
            &[CONNECT, AUTHORITY, ("a", "\x1b[31m")],
            &[CONNECT, AUTHORITY, ("a", " a")],
            &[CONNECT, AUTHORITY, ("a", "a\t")],
            &[CONNECT, AUTHORITY, ("connection", "close")],
            &[CONNECT, AUTHORITY, ("proxy-connection", "close")],
            &[CONNECT, AUTHORITY, ("keep-alive", "1")],
            &[CONNECT, AUTHORITY, ("transfer-encoding", "chunked")],
            &[CONNECT, AUTHORITY, ("upgrade", "h2c")],
            &[CONNECT, AUTHORITY, ("te", "gzip")],
            &[CONNECT, AUTHORITY, ("content-length", "x")],
            &[CONNECT, AUTHORITY, ("content-length", "+1")],
            &[CONNECT, AUTHORITY, ("content-length", "1"), ("content-length", "2")],
            &[(":method", ""), GET[1], GET[2]],
            &[(":method", "G T"), GET[1], GET[2]],
            &[GET[0], GET[1]],
            &[GET[0], GET[2]],
            &[GET[0], GET[1], (":path", "")],
        ];
        for case in cases {
            let refused = decode(Expected::Request, case);
            assert!(matches!(refused, Err(Refused::Malformed(_))), "{case:?}");
        }
        assert!(decode(Expected::Request, &GET).is_ok());
    }

    #[test]
    fn reads_responses() {
        for (status, expected) in [("200", Some(200)), ("100", Some(100)), ("999", Some(999))] {
            assert_eq!(decode(Expected::Response, &[(":status", status)]).expect(status).status, expected);
        }
        for status in ["", "20", "2000", "099", "101", "+20", "2 0"] {
            assert!(decode(Expected::Response, &[(":status", status)]).is_err(), "{status}");
        }
        assert!(decode(Expected::Response, &[]).is_err());
        assert!(decode(Expected::Response, &[(":status", "200"), (":status", "200")]).is_err());
        assert!(decode(Expected::Response, &[(":status", "200"), (":method", "GET")]).is_err());
    }

    #[test]
    fn trailers_have_no_pseudo_fields() {
        assert!(decode(Expected::Trailers, &[("a", "b")]).is_ok());
        assert!(decode(Expected::Trailers, &[(":status", "200")]).is_err());
        assert!(decode(Expected::Trailers, &[(":method", "GET")]).is_err());
    }

    #[test]
    fn a_traceparent_that_comes_twice_counts_as_none() {
        let twice = [CONNECT, AUTHORITY, ("traceparent", "a"), ("traceparent", "a")];
        assert_eq!(decode(Expected::Request, &twice).expect("well-formed").take_traceparent(), None);
    }

    #[test]
    fn a_list_over_the_limit_is_refused_and_still_decoded() {
        let long = "x".repeat(1000);
        let fields = [CONNECT, AUTHORITY, ("a", long.as_str())];
        assert_eq!(decode(Expected::Request, &fields).err(), Some(Refused::TooLarge));
        assert!(decode(Expected::Discarded, &fields).is_ok());
    }

    #[test]
    fn text_that_is_not_utf_8_is_left_out() {
        let mut block = Vec::new();
        let mut encoder = Encoder::new();
        encoder.field(&mut block, CONNECT.0, CONNECT.1, Indexing::Once);
        encoder.field(&mut block, AUTHORITY.0, AUTHORITY.1, Indexing::Once);
        encoder.field(&mut block, "baggage", "ok", Indexing::Once);
        block.extend(b"\x00\x07baggage\x02a\xff");
        let fields = Fields::decode(&mut Decoder::new(4096), &block, Expected::Request, 1000);
        assert_eq!(fields.expect("sound").expect("well-formed").baggage.take(), None);
    }
}
