//! Strings and pod templates that repeat are stored once.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::pod::{PodTemplate, TemplateKey};

/// Shares what repeats: thousands of pods have the same labels, ports, accounts and nodes.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    strings: HashTable<Arc<str>>,
    templates: HashTable<Arc<PodTemplate>>,
    /// The template that was adopted last, and what it became: pods of one workload come one after another.
    adopted: Option<[Arc<PodTemplate>; 2]>,
    hasher: DefaultHashBuilder,
}

impl Interner {
    /// The shared copy of a text that is likely to repeat.
    pub fn text(&mut self, text: &str) -> Arc<str> {
        let hasher = &self.hasher;
        self.strings
            .entry(hasher.hash_one(text), |known| &**known == text, |known| hasher.hash_one(&**known))
            .or_insert_with(|| text.into())
            .get()
            .clone()
    }

    /// The shared copy of a pod's template.
    pub fn template(&mut self, key: &TemplateKey<'_>) -> Arc<PodTemplate> {
        let hash = key.hash(&self.hasher);
        if let Some(known) = self.templates.find(hash, |known| key.is_of(known)) {
            return Arc::clone(known);
        }
        let template = Arc::new(PodTemplate::new(key, self));
        let hasher = &self.hasher;
        self.templates.insert_unique(hash, Arc::clone(&template), |known| known.key().hash(hasher));
        template
    }

    /// The shared copy of a template that another interner made.
    pub fn adopt(&mut self, template: &Arc<PodTemplate>) -> Arc<PodTemplate> {
        if let Some([foreign, own]) = &self.adopted
            && Arc::ptr_eq(foreign, template)
        {
            return Arc::clone(own);
        }
        let own = self.template(&template.key());
        self.adopted = Some([Arc::clone(template), Arc::clone(&own)]);
        own
    }

    /// Forgets what nobody else holds any more, and gives its memory back.
    pub fn forget_unused(&mut self) {
        self.adopted = None;
        let hasher = &self.hasher;
        self.templates.retain(|template| Arc::strong_count(template) > 1);
        self.templates.shrink_to_fit(|template| template.key().hash(hasher));
        self.strings.retain(|text| Arc::strong_count(text) > 1);
        self.strings.shrink_to_fit(|text| hasher.hash_one(&**text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_allocation_until_unused() {
        let mut interner = Interner::default();
        let first = interner.text("shop");
        assert!(Arc::ptr_eq(&first, &interner.text("shop")));
        interner.text("gone");
        interner.forget_unused();
        assert_eq!(interner.strings.len(), 1);
        assert!(Arc::ptr_eq(&first, &interner.text("shop")));
    }
}
