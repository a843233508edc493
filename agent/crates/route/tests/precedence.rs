//! Compiled tables say the same as the definition of precedence, of thousands of random routes and requests.

#[path = "precedence/by_definition.rs"]
mod by_definition;

#[test]
fn tables_say_what_the_definition_says() {
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        by_definition::check(&mut |below| random.u32(0..below));
    }
}
