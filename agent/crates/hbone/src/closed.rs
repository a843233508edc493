//! What is remembered of streams that are no longer open (RFC 9113, 5.1, "closed").

use crate::frame::is_client_stream;

/// How many of the latest streams are remembered.
const REMEMBERED: u32 = 2048;
const PER_WORD: u32 = u64::BITS / 2;

/// How a stream that is not in the table came to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// It was never opened, but one with a higher number was (RFC 9113, 5.1.1).
    Skipped,
    /// Both sides ended it, or the peer reset it: the peer must not send on it any more.
    Ended,
    /// It was reset or refused here: what the peer sent before it knew is to be ignored.
    Discarded,
    /// Too long ago to be told; treated with patience.
    Forgotten,
}

/// The past of the latest streams, two bits for each, so that frames which cross a reset on their way are told from
/// frames that must not be, however many streams are reset at once.
pub(crate) struct ClosedStreams {
    words: Box<[u64; (REMEMBERED / PER_WORD) as usize]>,
    /// The highest number opened by the client, 0 for none.
    highest: u32,
}

const ENDED: u64 = 1;
const DISCARDED: u64 = 2;

impl ClosedStreams {
    pub(crate) fn new() -> Self {
        Self { words: Box::new([0; _]), highest: 0 }
    }

    /// The highest stream opened so far.
    pub(crate) fn highest(&self) -> u32 {
        self.highest
    }

    /// A stream is opened. Its number is odd, and higher than any before.
    pub(crate) fn opened(&mut self, id: u32) {
        debug_assert!(is_client_stream(id) && id > self.highest);
        // Forgets what was remembered in the places of this stream and of those skipped.
        let steps = ((id / 2).saturating_sub(self.highest / 2)).min(REMEMBERED);
        if steps == REMEMBERED {
            self.words.fill(0);
        } else {
            for back in 0..steps {
                self.set(id - 2 * back, 0);
            }
        }
        self.set(id, 0);
        self.highest = id;
    }

    /// A stream was closed by both sides, or by the peer.
    pub(crate) fn ended(&mut self, id: u32) {
        if self.is_remembered(id) {
            self.set(id, ENDED);
        }
    }

    /// A stream was closed by this side, without the peer knowing yet.
    pub(crate) fn discarded(&mut self, id: u32) {
        if self.is_remembered(id) {
            self.set(id, DISCARDED);
        }
    }

    /// The past of a stream not above the highest and not in the table.
    pub(crate) fn past(&self, id: u32) -> Past {
        if !self.is_remembered(id) {
            return Past::Forgotten;
        }
        let (word, shift) = Self::place(id);
        match self.words[word] >> shift & 3 {
            ENDED => Past::Ended,
            DISCARDED => Past::Discarded,
            _ => Past::Skipped,
        }
    }

    fn is_remembered(&self, id: u32) -> bool {
        self.highest / 2 - id / 2 < REMEMBERED
    }

    fn set(&mut self, id: u32, past: u64) {
        let (word, shift) = Self::place(id);
        self.words[word] = self.words[word] & !(3 << shift) | past << shift;
    }

    fn place(id: u32) -> (usize, u32) {
        let at = id / 2 % REMEMBERED;
        ((at / PER_WORD) as usize, at % PER_WORD * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_latest_streams() {
        let mut closed = ClosedStreams::new();
        let past = |id: u32| match id % 7 {
            1 => Past::Skipped,
            2 | 3 => Past::Discarded,
            _ => Past::Ended,
        };
        for id in (1..20_000).step_by(2) {
            if past(id) == Past::Skipped {
                continue;
            }
            closed.opened(id);
            match past(id) {
                Past::Discarded => closed.discarded(id),
                _ => closed.ended(id),
            }
            for earlier in (1..=id).rev().step_by(2).take(REMEMBERED as usize) {
                assert_eq!(closed.past(earlier), past(earlier), "{earlier} at {id}");
            }
            if id > 2 * REMEMBERED {
                assert_eq!(closed.past(id - 2 * REMEMBERED), Past::Forgotten);
            }
        }
    }

    #[test]
    fn a_leap_in_the_numbers_forgets_everything_before() {
        for leap in [2 * REMEMBERED - 2, 2 * REMEMBERED, 2 * REMEMBERED + 2, 0x7fff_fffe - 2] {
            let mut closed = ClosedStreams::new();
            closed.opened(1);
            closed.ended(1);
            closed.opened(1 + leap);
            assert_eq!(closed.past(1 + leap - 2), Past::Skipped);
            let is_near = leap < 2 * REMEMBERED;
            assert_eq!(closed.past(1), if is_near { Past::Ended } else { Past::Forgotten });
            assert_eq!(closed.highest(), 1 + leap);
        }
    }
}
