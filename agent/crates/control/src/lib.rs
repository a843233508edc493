//! Sources of configuration and their translation into the model.
