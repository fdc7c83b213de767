//! The `sparkc` program. Everything is in the library, so that tests run the same code.

fn main() -> std::process::ExitCode {
    sparkc::main()
}
