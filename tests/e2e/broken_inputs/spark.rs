//! .spark files that do not parse, do not verify, or do not fit their weights.

use crate::case::{Case, Place, command};

const COMPILE: &[&str] = &["compile", "m.spark", "--emit", "ir", "-o", "out"];

/// A module that is accepted; cases break one thing.
const VALID: &str = "module \"m\" context 16 {
  graph @main(input %tokens: i32[T]) {
    %table = weight \"model.embed_tokens.weight\" : f32[96, 32]
    %x = gather %table, %tokens : f32[T, 32]
    %last = slice %x {axis=0, start=T - R, end=T} : f32[R, 32]
    %t = transpose %table {perm=[1, 0]} : f32[32, 96]
    %logits = matmul %last, %t : f32[R, 96]
    return %logits
  }
}
";

/// A case that replaces one piece of the valid module.
fn changed(
    name: &'static str,
    from: &'static str,
    to: &'static str,
    says: &'static [&'static str],
) -> Case {
    command(name, COMPILE, 1, says, move |place: &Place| {
        assert!(VALID.contains(from), "{name}");
        place.write("m.spark", VALID.replacen(from, to, 1));
    })
}

/// A case that gives the file another content.
fn content(name: &'static str, bytes: &'static [u8], says: &'static [&'static str]) -> Case {
    command(name, COMPILE, 1, says, move |place| place.write("m.spark", bytes))
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        content("spark_is_empty", b"", &["m.spark"]),
        content("spark_is_not_utf8", b"module \xff", &["SPK2101"]),
        content("spark_is_something_else", b"fn main() {}", &["SPK2601", "line 1, column 1"]),
        changed("spark_unknown_op", "gather", "scatter", &["SPK2601", "line 4", "scatter"]),
        changed("spark_unknown_value", "gather %table", "gather %chair", &["SPK2601", "%chair"]),
        changed("spark_value_twice", "%last = slice", "%x = slice", &["SPK2601"]),
        changed("spark_wrong_result_type", "f32[T, 32]", "f32[T, 33]", &["SPK2601", "line 4"]),
        changed(
            "spark_shapes_do_not_fit",
            "[1, 0]} : f32[32, 96]",
            "[0, 1]} : f32[96, 32]",
            &["SPK2601"],
        ),
        changed("spark_never_closed", "return %logits\n  }\n}\n", "return %logits\n", &["SPK2601"]),
        changed("spark_context_is_zero", "context 16", "context 0", &["m.spark"]),
        changed("spark_returns_no_logits", "return %logits", "return %x", &["SPK26"]),
        command(
            "spark_weights_do_not_exist",
            &["compile", "m.spark", "--weights", "nowhere.safetensors", "-o", "out"],
            1,
            &["nowhere.safetensors"],
            |place| place.write("m.spark", VALID),
        ),
        command(
            "spark_weights_of_another_shape",
            &["compile", "m.spark", "--weights", "model/model.safetensors", "-o", "out"],
            1,
            &["SPK2403", "[96, 32]", "[95, 32]"],
            |place| {
                place.write("m.spark", VALID.replace("[96, 32]", "[95, 32]").replace("96", "95"));
            },
        ),
        command(
            "spark_without_weights_has_no_logits",
            &["eval", "m.spark", "--tokens", "1"],
            1,
            &["shapes only"],
            |place| place.write("m.spark", VALID),
        ),
    ]
}
