//! Cuts block-style YAML into events, line by line.

use super::Unusual;

/// A key with more characters than this is not plain; YAML itself ends at 1024 (YAML 1.2.2, 7.4.2).
const MAX_KEY: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// A mapping begins: keys and values follow in turn.
    Mapping,
    Sequence,
    /// The mapping or sequence that began last, and has not ended, ends.
    End,
    /// A scalar without quotes; empty where nothing is written.
    Plain(&'a str),
    Quoted(&'a str),
    DocumentEnd,
}

/// A collection that has not ended, and the column where its keys or dashes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Mapping(usize),
    Sequence(usize),
    /// `{}` or `[]`.
    Empty,
}

/// What the next event is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State<'a> {
    /// The next line says.
    Line,
    /// The first key of the mapping at this column, and what stands behind it on the current line.
    FirstKey(usize, Event<'a>, &'a str),
    /// The value of a key of the mapping at this column; this stands behind the key.
    Value(usize, &'a str),
    /// An element of the sequence at this column, of which the dash was taken.
    Element(usize),
}

pub(super) struct Scanner<'a> {
    /// The lines behind the current one.
    rest: &'a str,
    /// The column and the content of the current line, or of what is left of it.
    line: Option<(usize, &'a str)>,
    open: Vec<Open>,
    state: State<'a>,
    has_begun: bool,
}

impl<'a> Scanner<'a> {
    /// Of characters there may be those that mean the same to everybody.
    pub(super) fn new(text: &'a str) -> Option<Self> {
        if !text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) {
            return None;
        }
        let mut scanner = Self { rest: text, line: None, open: Vec::new(), state: State::Line, has_begun: false };
        scanner.advance();
        Some(scanner)
    }

    /// Goes to the next line that says anything.
    fn advance(&mut self) {
        self.line = None;
        while self.line.is_none() && !self.rest.is_empty() {
            let length = memchr::memchr(b'\n', self.rest.as_bytes()).unwrap_or(self.rest.len());
            let (line, rest) = self.rest.split_at(length);
            self.rest = rest.get(1..).unwrap_or_default();
            let column = line.bytes().take_while(|byte| *byte == b' ').count();
            let content = &line[column..];
            if !content.is_empty() && !content.starts_with('#') {
                self.line = Some((column, content.trim_end_matches(' ')));
            }
        }
    }

    pub(super) fn next(&mut self) -> Result<Event<'a>, Unusual> {
        match self.state {
            State::FirstKey(column, key, value) => {
                self.advance();
                self.state = State::Value(column, value);
                Ok(key)
            }
            State::Value(column, "") => {
                self.state = State::Line;
                match self.line {
                    Some((deeper, _)) if deeper > column => self.begin(),
                    // A sequence need not be indented below its key.
                    Some((same, content)) if same == column && is_element(content) => self.begin(),
                    _ => Ok(Event::Plain("")),
                }
            }
            State::Value(_, text) => {
                self.state = State::Line;
                self.scalar(text)
            }
            State::Element(column) => {
                self.state = State::Line;
                match self.line {
                    Some((deeper, content)) if deeper > column => {
                        let begun = self.begin();
                        if begun.is_err() {
                            self.advance();
                            return self.scalar(content);
                        }
                        begun
                    }
                    _ => Ok(Event::Plain("")),
                }
            }
            State::Line => self.line(),
        }
    }

    fn line(&mut self) -> Result<Event<'a>, Unusual> {
        let Some(open) = self.open.last().copied() else {
            return match self.line {
                Some(_) if !self.has_begun => self.begin(),
                None if self.has_begun => Ok(Event::DocumentEnd),
                _ => Err(Unusual),
            };
        };
        match (open, self.line) {
            (Open::Mapping(column), Some((at, content))) if at == column => {
                let (key, value) = key(content).ok_or(Unusual)?;
                self.advance();
                self.state = State::Value(column, value);
                Ok(key)
            }
            (Open::Sequence(column), Some((at, content))) if at == column && is_element(content) => {
                let element = content[1..].trim_start_matches(' ');
                match element {
                    "" => self.advance(),
                    _ => self.line = Some((at + content.len() - element.len(), element)),
                }
                self.state = State::Element(column);
                self.next()
            }
            // What continues a scalar is not plain, nor is what is indented like nothing before it.
            (Open::Mapping(column) | Open::Sequence(column), Some((at, _))) if at > column => Err(Unusual),
            _ => {
                self.open.pop();
                Ok(Event::End)
            }
        }
    }

    /// Begins the collection of which the current line has the first key or element.
    fn begin(&mut self) -> Result<Event<'a>, Unusual> {
        self.has_begun = true;
        let (column, content) = self.line.ok_or(Unusual)?;
        if is_element(content) {
            self.open.push(Open::Sequence(column));
            return Ok(Event::Sequence);
        }
        let (key, value) = key(content).ok_or(Unusual)?;
        self.open.push(Open::Mapping(column));
        self.state = State::FirstKey(column, key, value);
        Ok(Event::Mapping)
    }

    /// A value within a line.
    fn scalar(&mut self, text: &'a str) -> Result<Event<'a>, Unusual> {
        match text.as_bytes() {
            b"{}" | b"[]" => {
                self.open.push(Open::Empty);
                Ok(if text == "{}" { Event::Mapping } else { Event::Sequence })
            }
            b"~" => Ok(Event::Plain(text)),
            [quote @ (b'"' | b'\''), ..] => match quoted(text, *quote).ok_or(Unusual)? {
                (inner, "") => Ok(Event::Quoted(inner)),
                _ => Err(Unusual),
            },
            [first, ..] if first.is_ascii_alphanumeric() || *first == b'/' => {
                let ends = |pair: &[u8]| matches!(pair, b": " | b" #");
                let is_plain = !text.ends_with(':') && !text.as_bytes().windows(2).any(ends);
                if is_plain { Ok(Event::Plain(text)) } else { Err(Unusual) }
            }
            _ => Err(Unusual),
        }
    }
}

/// Whether a line begins with the dash of an element.
fn is_element(content: &str) -> bool {
    content == "-" || content.starts_with("- ")
}

/// The key at the beginning of a line, and what stands behind its colon.
fn key(content: &str) -> Option<(Event<'_>, &str)> {
    let (key, after) = match content.as_bytes().first()? {
        quote @ (b'"' | b'\'') => {
            let (inner, after) = quoted(content, *quote)?;
            (Event::Quoted(inner), after)
        }
        _ => {
            let length = content.bytes().position(|byte| !is_of_key(byte)).unwrap_or(content.len());
            let (text, after) = content.split_at(length);
            (Event::Plain(text), after)
        }
    };
    if content.len() - after.len() > MAX_KEY || content.len() == after.len() {
        return None;
    }
    let value = after.strip_prefix(':')?;
    let trimmed = value.trim_start_matches(' ');
    (value.is_empty() || trimmed.len() < value.len()).then_some((key, trimmed))
}

fn is_of_key(byte: u8) -> bool {
    const OF_KEY: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'-' | b'_' | b'.' | b'/');
            byte += 1;
        }
        table
    };
    OF_KEY[usize::from(byte)]
}

/// The inside of a quoted scalar without escapes at the beginning of `text`, and what stands behind it.
fn quoted(text: &str, quote: u8) -> Option<(&str, &str)> {
    let (inner, after) = text[1..].split_once(char::from(quote))?;
    let is_plain = !inner.contains('\\') && !after.starts_with(char::from(quote));
    is_plain.then_some((inner, after))
}
