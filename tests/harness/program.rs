//! The sparkc program as the tests run it: the same library entry as the real one.

fn main() -> std::process::ExitCode {
    sparkc::main()
}
