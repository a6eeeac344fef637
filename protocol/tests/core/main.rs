//! The two session cores in conversation, under one virtual clock (SPEC §10).

mod conversation;
mod invariants;
mod late;
mod lists;
mod losses;
mod pair;
mod resume;
mod simulation;
mod states;
mod tree;
mod violations;
