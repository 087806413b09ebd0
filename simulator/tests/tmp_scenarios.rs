#[path = "../../tests/tests/scenarios/main.rs"]
mod all;
