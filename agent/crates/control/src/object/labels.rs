//! Labels, and selectors over them.

use std::sync::Arc;

use super::Interner;

/// Labels of one object, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// Labels from pairs that are sorted by key and have each key once.
    pub fn from_sorted(pairs: Box<[(Arc<str>, Arc<str>)]>) -> Self {
        debug_assert!(pairs.is_sorted_by(|a, b| a.0 < b.0));
        Self(pairs)
    }

    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>, interner: &mut Interner) -> Self {
        let mut pairs: Vec<_> =
            pairs.into_iter().map(|(key, value)| (interner.text(key), interner.text(value))).collect();
        pairs.sort_unstable();
        pairs.dedup_by(|a, b| a.0 == b.0);
        Self(pairs.into_boxed_slice())
    }

    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        self.0.iter().find(|(candidate, _)| &**candidate == key).map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A word in which each label has set two bits: labels that lack one of a selector's bits cannot match it. It
    /// makes a comparison of every template with every selector of a namespace affordable.
    pub fn signature(&self) -> u64 {
        self.0.iter().fold(0, |signature, (key, value)| signature | bits(key, value))
    }
}

/// The two bits of one label.
fn bits(key: &str, value: &str) -> u64 {
    // FNV-1a: labels are short, and the result must be the same for every owner of an interner.
    let bytes = key.bytes().chain([b'=']).chain(value.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // Its last bytes do not reach the upper bits.
    let mixed = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (mixed >> 58) | 1 << (mixed >> 52 & 63)
}

/// `matchLabels`: all of these labels, with these values. Without labels it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Labels,
    signature: u64,
}

impl Selector {
    pub fn new(labels: Labels) -> Self {
        let signature = labels.signature();
        Self { labels, signature }
    }

    /// Whether it asks for this value of this label.
    pub fn names(&self, key: &str, value: &str) -> bool {
        self.labels.get(key).is_some_and(|wanted| **wanted == *value)
    }

    /// Whether it matches `labels`, whose [`Labels::signature`] is `signature`.
    pub fn matches(&self, labels: &Labels, signature: u64) -> bool {
        self.signature & !signature == 0
            && self.labels.iter().all(|(key, value)| labels.get(key).is_some_and(|found| found == value))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn labels(text: &str) -> Labels {
        let pairs: BTreeMap<String, String> = text
            .split_terminator(',')
            .map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("written as k=v"))
            .collect();
        Labels::new(&pairs, &mut Interner::default())
    }

    #[test]
    fn signatures_tell_most_labels_apart() {
        let signatures: std::collections::BTreeSet<u64> =
            (0..100).map(|i| labels(&format!("app=svc-{i}")).signature()).collect();
        assert!(signatures.len() > 80, "{}", signatures.len());
    }

    #[test]
    fn a_selector_matches_labels_that_have_all_of_its_own() {
        let cases = [
            ("", "", true),
            ("", "app=web", true),
            ("app=web", "app=web,version=v1", true),
            ("app=web,version=v1", "app=web,version=v1", true),
            ("app=web", "app=api", false),
            ("app=web", "", false),
            ("app=web,version=v2", "app=web,version=v1", false),
        ];
        for (selector, set, expected) in cases {
            let set = labels(set);
            let matches = Selector::new(labels(selector)).matches(&set, set.signature());
            assert_eq!(matches, expected, "{selector} against {set:?}");
        }
    }
}
